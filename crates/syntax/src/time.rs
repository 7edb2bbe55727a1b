//! Times in logs: strftime as Envoy (Abseil) has it, in UTC.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time's format, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Year,
    ShortYear,
    Month,
    MonthName(bool),
    Day,
    DaySpaced,
    DayOfYear,
    Weekday(bool),
    Hour,
    Hour12,
    AmPm,
    Minute,
    Second,
    Epoch,
    /// Fraction of a second with so many digits.
    Fraction(usize),
    Zone(&'static str),
}

const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

struct Civil {
    year: i64,
    month: usize,
    day: i64,
    day_of_year: i64,
    weekday: usize,
    second_of_day: i64,
}

impl TimeFormat {
    /// Empty is the default: milliseconds in RFC 3339.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = if text.is_empty() { DEFAULT } else { text }.chars();
        let mut literal = String::new();
        while let Some(c) = chars.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let mut spec = String::new();
            spec.extend(chars.next());
            if spec.starts_with(|c: char| c == 'E' || c.is_ascii_digit()) {
                spec.extend(chars.next());
                if spec.starts_with('E') && spec.ends_with(|c: char| c.is_ascii_digit() || c == '*') {
                    spec.extend(chars.next());
                }
            }
            let new = part(&spec, &mut literal)
                .ok_or_else(|| format!("%{spec} is no part of a time that this proxy knows"))?;
            if !new.is_empty() && !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.extend(new);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self(parts))
    }

    pub fn format(&self, time: SystemTime) -> String {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.format_epoch(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
    }

    pub fn format_epoch(&self, seconds: i64, nanos: u32) -> String {
        let civil = civil(seconds);
        let mut out = String::with_capacity(32);
        for part in &self.0 {
            write_part(part, &civil, seconds, nanos, &mut out);
        }
        out
    }
}

/// What a specifier stands for; literal ones are added to `literal`.
fn part(spec: &str, literal: &mut String) -> Option<Vec<Part>> {
    let colon = || Part::Literal(":".into());
    let dash = || Part::Literal("-".into());
    Some(match spec {
        "%" => {
            literal.push('%');
            Vec::new()
        }
        "n" => {
            literal.push('\n');
            Vec::new()
        }
        "t" => {
            literal.push('\t');
            Vec::new()
        }
        "Y" => vec![Part::Year],
        "y" => vec![Part::ShortYear],
        "m" => vec![Part::Month],
        "b" | "h" => vec![Part::MonthName(false)],
        "B" => vec![Part::MonthName(true)],
        "d" => vec![Part::Day],
        "e" => vec![Part::DaySpaced],
        "j" => vec![Part::DayOfYear],
        "a" => vec![Part::Weekday(false)],
        "A" => vec![Part::Weekday(true)],
        "H" => vec![Part::Hour],
        "I" => vec![Part::Hour12],
        "p" => vec![Part::AmPm],
        "M" => vec![Part::Minute],
        "S" => vec![Part::Second],
        "s" => vec![Part::Epoch],
        "f" | "E*f" => vec![Part::Fraction(9)],
        "z" => vec![Part::Zone("+0000")],
        "Ez" => vec![Part::Zone("+00:00")],
        "Z" => vec![Part::Zone("UTC")],
        "F" => vec![Part::Year, dash(), Part::Month, dash(), Part::Day],
        "T" => vec![Part::Hour, colon(), Part::Minute, colon(), Part::Second],
        "R" => vec![Part::Hour, colon(), Part::Minute],
        "E*S" => vec![Part::Second, Part::Literal(".".into()), Part::Fraction(9)],
        _ => fraction(spec)?,
    })
}

/// `%3f`, `%E3S`, `%E3f`.
fn fraction(spec: &str) -> Option<Vec<Part>> {
    let seconds = spec.starts_with('E') && spec.ends_with('S');
    let digits = spec.strip_prefix('E').unwrap_or(spec);
    let digits: usize = digits.strip_suffix(['S', 'f'])?.parse().ok().filter(|n| (1..=9).contains(n))?;
    let fraction = Part::Fraction(digits);
    Some(if seconds { vec![Part::Second, Part::Literal(".".into()), fraction] } else { vec![fraction] })
}

fn write_part(part: &Part, civil: &Civil, seconds: i64, nanos: u32, out: &mut String) {
    let (hour, minute, second) =
        (civil.second_of_day / 3600, civil.second_of_day / 60 % 60, civil.second_of_day % 60);
    let short = |name: &'static str, long: bool| if long { name } else { &name[..3] };
    // Writing to a String does not fail.
    _ = match part {
        Part::Literal(text) => out.write_str(text),
        Part::Year => write!(out, "{:04}", civil.year),
        Part::ShortYear => write!(out, "{:02}", civil.year.rem_euclid(100)),
        Part::Month => write!(out, "{:02}", civil.month + 1),
        Part::MonthName(long) => out.write_str(short(MONTHS[civil.month], *long)),
        Part::Day => write!(out, "{:02}", civil.day),
        Part::DaySpaced => write!(out, "{:2}", civil.day),
        Part::DayOfYear => write!(out, "{:03}", civil.day_of_year),
        Part::Weekday(long) => out.write_str(short(DAYS[civil.weekday], *long)),
        Part::Hour => write!(out, "{hour:02}"),
        Part::Hour12 => write!(out, "{:02}", (hour + 11) % 12 + 1),
        Part::AmPm => out.write_str(if hour < 12 { "AM" } else { "PM" }),
        Part::Minute => write!(out, "{minute:02}"),
        Part::Second => write!(out, "{second:02}"),
        Part::Epoch => write!(out, "{seconds}"),
        Part::Fraction(digits) => out.write_str(&format!("{nanos:09}")[..*digits]),
        Part::Zone(text) => out.write_str(text),
    };
}

/// Days to a date, by Howard Hinnant's `civil_from_days`.
fn civil(seconds: i64) -> Civil {
    let days = seconds.div_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 2 } else { shifted_month - 10 };
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    // Years start in March here.
    let day_of_year = if of_year >= 306 { of_year - 305 } else { of_year + 60 + leap };
    Civil {
        year,
        month: month as usize,
        day: of_year - (153 * shifted_month + 2) / 5 + 1,
        day_of_year,
        weekday: (days + 4).rem_euclid(7) as usize,
        second_of_day: seconds.rem_euclid(86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_asked() {
        for (format, expected) in [
            ("", "2024-02-29T13:07:09.012Z"),
            ("%F %T", "2024-02-29 13:07:09"),
            ("%a, %d %b %Y %H:%M:%S %Z", "Thu, 29 Feb 2024 13:07:09 UTC"),
            ("%s.%3f", "1709212029.012"),
            ("%s.%9f", "1709212029.012345678"),
            ("%E*S|%E6S", "09.012345678|09.012345"),
            ("%j %y %I %p %e%%", "060 24 01 PM 29%"),
            ("%A %B %R %Ez", "Thursday February 13:07 +00:00"),
        ] {
            let parsed = TimeFormat::parse(format).unwrap();
            assert_eq!(parsed.format_epoch(1_709_212_029, 12_345_678), expected, "{format}");
        }
        assert!(TimeFormat::parse("%Q").is_err());
        assert_eq!(TimeFormat::parse("%F %j").unwrap().format_epoch(0, 0), "1970-01-01 001");
        assert_eq!(TimeFormat::parse("%F %j").unwrap().format_epoch(1_735_603_200, 0), "2024-12-31 366");
    }
}
