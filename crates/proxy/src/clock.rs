//! The date as HTTP writes it, made once a second, and moments as others read them.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::SystemTime;

use bytes::Bytes;
use syntax::TimeFormat;

thread_local! {
    static LAST: RefCell<(u64, Bytes)> = const { RefCell::new((u64::MAX, Bytes::new())) };
}

/// The value of `date` now (RFC 9110, section 5.6.7).
pub(crate) fn http_date() -> Bytes {
    let time = SystemTime::now();
    let now = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(at, text)| {
        if *at != now {
            *at = now;
            *text = httpdate::fmt_http_date(time).into();
        }
        text.clone()
    })
}

/// RFC 3339 in UTC, to the millisecond, as in access logs.
pub(crate) fn timestamp(time: SystemTime) -> String {
    static FORMAT: LazyLock<Option<TimeFormat>> = LazyLock::new(|| TimeFormat::parse("").ok());
    FORMAT.as_ref().map(|format| format.format(time)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_the_standard_says() {
        let at = |ms| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123Z");
    }
}
