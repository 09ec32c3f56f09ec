//! TensorBoard's event files: records of TFRecord, each with an `Event` of tensorflow/core/util/event.proto as protocol buffer. Only the fields
//! of scalars are written, by hand: `wall_time` (1, double), `step` (2, varint), `file_version` (3, string), `summary` (5) with `value` (1),
//! which has `tag` (1, string) and `simple_value` (2, float).

use crate::base::clock::unix_seconds;
use crate::report::curves::Curves;

/// The first record of a file.
const VERSION: &str = "brain.Event:2";
/// Added to a rotated checksum, so that the checksum of data with checksums in it is not special (tensorflow/core/lib/hash/crc32c.h).
const MASK: u32 = 0xa282_ead8;

/// The curves of a step, with when it began and how long it took. metrics.jsonl has no times, so the points are spread evenly over it.
#[derive(Debug)]
pub(crate) struct EventStep<'a> {
    pub curves: &'a Curves,
    /// RFC 3339.
    pub started: &'a str,
    pub seconds: f64,
}

/// The name that TensorBoard recognizes, and the content.
pub(crate) fn event_file(step: &EventStep) -> (String, Vec<u8>) {
    let begun = unix_seconds(step.started).unwrap_or_default();
    let last = step.curves.all.iter().filter_map(|curve| curve.points.last()).map(|(at, _)| *at).fold(1.0, f64::max);
    let mut bytes = record(&event(begun, None, &field(3, VERSION.as_bytes())));
    for curve in &step.curves.all {
        for (at, value) in &curve.points {
            let mut scalar = field(1, curve.name.as_bytes());
            scalar.push(0x15); // field 2, 32 bits
            scalar.extend((*value as f32).to_le_bytes());
            let time = begun + step.seconds * (at / last).clamp(0.0, 1.0);
            bytes.extend(record(&event(time, Some(*at as u64), &field(5, &field(1, &scalar)))));
        }
    }
    (format!("events.out.tfevents.{}.pyrust-nn", begun as u64), bytes)
}

fn event(time: f64, step: Option<u64>, what: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x09]; // field 1, 64 bits
    bytes.extend(time.to_le_bytes());
    if let Some(step) = step {
        bytes.push(0x10); // field 2, varint
        varint(&mut bytes, step);
    }
    bytes.extend(what);
    bytes
}

/// A field of bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(&mut bytes, content.len() as u64);
    bytes.extend(content);
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A record of TFRecord: the length, its checksum, the data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let masked = |data: &[u8]| crc32c::crc32c(data).rotate_right(15).wrapping_add(MASK).to_le_bytes();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}
