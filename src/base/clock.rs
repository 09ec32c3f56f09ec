//! The current time, in the formats of logs, records and names.

use time::OffsetDateTime;
use time::macros::format_description;

/// The time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn now() -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(form).unwrap_or_default()
}

/// The time in UTC for use in names, such as `20261126-061500`, and the nanoseconds within that second.
pub(crate) fn stamp() -> (String, u32) {
    let now = OffsetDateTime::now_utc();
    let form = format_description!("[year][month][day]-[hour][minute][second]");
    (now.format(form).unwrap_or_default(), now.nanosecond())
}
