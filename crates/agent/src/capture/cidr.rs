//! A network: an address and how many of its leading bits count.

use std::{fmt, net::IpAddr, str::FromStr};

use super::Family;

/// Host bits are cleared when it is made, so equal networks compare equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: write an address and a prefix length, like 10.0.0.0/8 or fd00::/8")]
pub struct InvalidCidr(String);

impl Cidr {
    /// A prefix beyond the address's length is cut to it.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Self { address, prefix: prefix.min(bits(address)) }
    }

    /// The network of one address.
    pub fn host(address: IpAddr) -> Self {
        Self::new(address, bits(address))
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn is_host(self) -> bool {
        self.prefix == bits(self.address)
    }

    pub fn family(self) -> Family {
        if self.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.prefix).address == self.address
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.is_host() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix = prefix.map_or(Ok(bits(address)), str::parse).map_err(|_| invalid())?;
        if prefix > bits(address) { Err(invalid()) } else { Ok(Self::new(address, prefix)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (network, inside, outside) in [
            ("10.44.0.0/16", "10.44.255.255", "10.45.0.0"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("fd44::/64", "fd44::1:2", "fd44:0:0:1::"),
            ("::/0", "::1", "1.2.3.4"),
        ] {
            let network: Cidr = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
        assert_eq!("10.44.1.2/16".parse::<Cidr>().unwrap().to_string(), "10.44.0.0/16");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "a/8", "10.0.0.0/8/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
