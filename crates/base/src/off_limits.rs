//! Addresses that nobody is sent to because a resource says so.
//!
//! Where a program fetches what users name, they choose whom it speaks with: those that answer any caller of a machine
//! with its credentials must not be among them. To be asked of addresses, after names were looked up.

use std::net::{IpAddr, Ipv4Addr};

/// Metadata services of clouds outside of the link-local ranges.
const METADATA: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))];

/// Why an address is off limits; nothing for one that is not.
pub fn off_limits(address: IpAddr) -> Option<&'static str> {
    let address = plain(address);
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.is_unicast_link_local() || matches!(v6.segments()[0], 0xff01 | 0xff02),
    };
    if link_local {
        return Some("a link-local address, where clouds keep credentials");
    }
    let aws = matches!(address, IpAddr::V6(v6) if v6.segments()[..2] == [0xfd00, 0x0ec2]);
    (aws || METADATA.contains(&address)).then_some("a cloud's metadata service")
}

/// The IPv4 address that an IPv6 one stands for: mapped, or translated (NAT64, 6to4).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let inner = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff | 0, a, b] if (a, b) > (0, 1) => Some((a, b)),
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some((a, b)),
        [0x2002, a, b, ..] => Some((a, b)),
        _ => None,
    };
    inner.map_or(address, |(a, b)| IpAddr::V4(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn metadata_services_are_off_limits_however_they_are_written() {
        for (address, off) in [
            ("169.254.169.254", true),
            ("169.254.0.1", true),
            ("100.100.100.200", true),
            ("224.0.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("::169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("2002:a9fe:a9fe::1", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("ff02::1", true),
            ("fd00:ec2::254", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("10.0.0.1", false),
            ("100.100.100.201", false),
            ("fd00:ec3::1", false),
            ("fec0::1", false),
            ("2001:db8::1", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(off_limits(address).is_some(), off, "{address}");
        }
        assert_eq!(plain(IpAddr::V6(Ipv6Addr::LOCALHOST)), IpAddr::V6(Ipv6Addr::LOCALHOST));
    }
}
