//! The current time, in the formats of logs, records and names.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;

/// The time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}

/// A file's time, in the same format.
pub(crate) fn time(time: SystemTime) -> String {
    rfc3339(time.into())
}

fn rfc3339(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time.format(form).unwrap_or_default()
}

/// The processor time that all threads of this process have taken. Zero if the system does not say.
pub(crate) fn processor_time() -> Duration {
    let mut taken = std::mem::MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the memory is ours, and all zeros are a valid time.
    let taken = unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, taken.as_mut_ptr());
        taken.assume_init()
    };
    Duration::new(taken.tv_sec.unsigned_abs(), u32::try_from(taken.tv_nsec).unwrap_or_default())
}

/// Seconds from a time in RFC 3339 until now. `None` if it is not one.
pub(crate) fn seconds_since(then: &str) -> Option<f64> {
    let then = OffsetDateTime::parse(then, &time::format_description::well_known::Rfc3339).ok()?;
    Some((OffsetDateTime::now_utc() - then).as_seconds_f64())
}

/// Seconds from 1970 to a time in RFC 3339. `None` if it is not one.
pub(crate) fn unix_seconds(time: &str) -> Option<f64> {
    let time = OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).ok()?;
    Some(time.unix_timestamp_nanos() as f64 / 1e9)
}

/// The time that a person names, in the format of the log: so long ago (`90s`, `10m`, `2h`, `3d`, `1w`), or the beginning of a time in RFC 3339,
/// such as `2026-11-26` or `2026-11-26T20:00` (UTC). `None` if it is neither.
pub(crate) fn named_time(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ if text.len() < "2026-11-26".len() => return None,
        _ => {
            const ZERO: &str = "0000-01-01T00:00:00.000Z";
            let whole = format!("{text}{}", ZERO.get(text.len()..)?);
            return OffsetDateTime::parse(&whole, &time::format_description::well_known::Rfc3339).ok().map(rfc3339);
        }
    };
    let seconds = text[..digits].parse::<i64>().ok()?.checked_mul(unit)?;
    OffsetDateTime::now_utc().checked_sub(time::Duration::seconds(seconds)).map(rfc3339)
}

/// The time in UTC for use in names, such as `20261126-061500`, and the nanoseconds within that second.
pub(crate) fn stamp() -> (String, u32) {
    let now = OffsetDateTime::now_utc();
    let form = format_description!("[year][month][day]-[hour][minute][second]");
    (now.format(form).unwrap_or_default(), now.nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = processor_time();
        let sum: u64 = (0..20_000_000u64).map(|i| std::hint::black_box(i) ^ 7).fold(0, u64::wrapping_add);
        assert!(sum > 0 && processor_time() > before);
    }

    #[test]
    fn times_that_people_name() {
        for (text, wanted) in [
            ("2026-11-26", "2026-11-26T00:00:00.000Z"),
            ("2026-11-26T20:15", "2026-11-26T20:15:00.000Z"),
            ("2026-11-26T20:15:30.5", "2026-11-26T20:15:30.500Z"),
            ("2026-11-26T20:15:30.123Z", "2026-11-26T20:15:30.123Z"),
        ] {
            assert_eq!(named_time(text).as_deref(), Some(wanted), "{text}");
        }
        for (text, seconds) in [("90s", 90.0), ("10m", 600.0), ("10min", 600.0), ("2h", 7_200.0), ("3d", 259_200.0), ("1w", 604_800.0)] {
            let ago = seconds_since(&named_time(text).unwrap()).unwrap();
            assert!((ago - seconds).abs() < 60.0, "{text}: {ago}");
        }
        for text in [
            "",
            "s",
            "10",
            "yesterday",
            "-1h",
            "2026-13-01",
            "99999999999999999999d",
            "9999999999999w",
            "2026-11-26T20:15:30.123+01:00",
            "é",
        ] {
            assert_eq!(named_time(text), None, "{text}");
        }
    }
}
