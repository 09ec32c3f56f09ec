//! The current time, in the formats of logs, records and names.

use std::time::SystemTime;

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

/// Seconds from a time in RFC 3339 until now. `None` if it is not one.
pub(crate) fn seconds_since(then: &str) -> Option<f64> {
    let then = OffsetDateTime::parse(then, &time::format_description::well_known::Rfc3339).ok()?;
    Some((OffsetDateTime::now_utc() - then).as_seconds_f64())
}

/// The time in UTC for use in names, such as `20261126-061500`, and the nanoseconds within that second.
pub(crate) fn stamp() -> (String, u32) {
    let now = OffsetDateTime::now_utc();
    let form = format_description!("[year][month][day]-[hour][minute][second]");
    (now.format(form).unwrap_or_default(), now.nanosecond())
}
