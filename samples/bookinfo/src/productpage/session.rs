//! Who is logged in. The sample has no passwords, so the cookie holds the name itself, in hexadecimal.

use http::{HeaderMap, HeaderValue, header};

const LONGEST_NAME: usize = 64;

pub(super) fn user(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| decode(cookie.trim().strip_prefix("session=")?))
        .filter(|user| !user.is_empty())
}

pub(super) fn remember(user: &str) -> HeaderValue {
    let hex: String = user.bytes().map(|b| format!("{b:02x}")).collect();
    HeaderValue::try_from(format!("session={hex}; Path=/; HttpOnly; SameSite=Lax"))
        .unwrap_or_else(|_| forget())
}

pub(super) fn forget() -> HeaderValue {
    HeaderValue::from_static("session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
}

/// The field `username` of a form.
pub(super) fn username(form: &[u8]) -> String {
    let form = String::from_utf8_lossy(form);
    let field = form.split('&').find_map(|field| field.strip_prefix("username=")).unwrap_or_default();
    let plain = unescape(field);
    plain.chars().filter(|c| c.is_alphanumeric() || "-_. @".contains(*c)).take(LONGEST_NAME).collect()
}

fn decode(hex: &str) -> Option<String> {
    let bytes = hex.as_bytes();
    if !bytes.len().is_multiple_of(2) || bytes.len() > LONGEST_NAME * 8 {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        bytes.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

/// The escapes of `application/x-www-form-urlencoded`.
fn unescape(field: &str) -> String {
    let mut plain = Vec::new();
    let mut bytes = field.bytes();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = [bytes.next(), bytes.next()];
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                match (digit(pair[0]), digit(pair[1])) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => b'?',
                }
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_remembered_until_forgotten() {
        let cookie = remember(&username(b"passwd=x&username=jason%20b"));
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::try_from(format!("a=b; {pair}")).unwrap());
        assert_eq!(user(&headers).as_deref(), Some("jason b"));
        headers.insert(header::COOKIE, HeaderValue::from_static("session="));
        assert_eq!(user(&headers), None);
        headers.insert(header::COOKIE, HeaderValue::from_static("session=zz"));
        assert_eq!(user(&headers), None);
    }

    #[test]
    fn markup_does_not_survive_a_login() {
        assert_eq!(username(b"username=%3Cscript%3Ejason"), "scriptjason");
    }
}
