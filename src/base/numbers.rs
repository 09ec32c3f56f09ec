//! Numbers for people.

/// 12345 as 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what it counts: `1 row`, `2,000 rows`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// 12345678 as 12.3 M.
pub(crate) fn short(number: u64) -> String {
    scaled(number, &["", " k", " M", " G", " T"], 1000.0)
}

const BYTES: [&str; 5] = [" B", " kB", " MB", " GB", " TB"];

/// Bytes with a decimal unit.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number, &BYTES, 1000.0)
}

/// Bytes with a decimal unit and as many digits, at most all.
pub(crate) fn precise_bytes(number: u64, digits: usize) -> String {
    let (rest, unit) = in_unit(number, BYTES.len(), 1000.0);
    let before = if rest >= 100.0 { 3 } else { 1 + usize::from(rest >= 10.0) };
    format!("{rest:.*}{}", digits.saturating_sub(before).min(3 * unit), BYTES[unit])
}

/// As many significant digits.
pub(crate) fn precise(number: f64, digits: usize) -> String {
    let size = number.abs();
    if size != 0.0 && size < 1e-3 {
        return format!("{number:.*e}", digits.saturating_sub(1));
    }
    let before = if size < 1e-3 { 0 } else { size.log10().floor() as i32 };
    format!("{number:.*}", (digits as i32 - 1 - before).max(0) as usize)
}

fn scaled(number: u64, units: &[&str], base: f64) -> String {
    let (rest, unit) = in_unit(number, units.len(), base);
    if unit == 0 || rest >= 99.95 { format!("{rest:.0}{}", units[unit]) } else { format!("{rest:.1}{}", units[unit]) }
}

/// A number in the unit in which it has at most three digits before the point, and the number of that unit.
fn in_unit(number: u64, units: usize, base: f64) -> (f64, usize) {
    let (mut rest, mut unit) = (number as f64, 0);
    while rest >= base * 0.9995 && unit + 1 < units {
        rest /= base;
        unit += 1;
    }
    (rest, unit)
}

/// Seconds, minutes, hours or days.
pub(crate) fn duration(seconds: f64) -> String {
    // The sum of no numbers is -0.0.
    match seconds + 0.0 {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Four significant digits, and thousands without decimals.
pub(crate) fn significant(number: f64) -> String {
    match number.abs() {
        size if (1e3..1e15).contains(&size) => format!("{}{}", if number < 0.0 { "-" } else { "" }, grouped(size.round() as u64)),
        size if size >= 1e-3 || size == 0.0 => {
            let decimals = (3 - size.max(1e-9).log10().floor() as i32).clamp(0, 6) as usize;
            let text = format!("{number:.decimals$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
        }
        _ => format!("{number:.3e}"),
    }
}

/// Seconds with a decimal below ten.
pub(crate) fn seconds(seconds: f64) -> String {
    let seconds = seconds + 0.0;
    if (0.0..10.0).contains(&seconds) { format!("{seconds:.1} s") } else { duration(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_has_no_sign() {
        let none: f64 = std::iter::empty::<f64>().sum();
        assert_eq!((seconds(none), duration(none)), ("0.0 s".to_string(), "0 s".to_string()));
    }

    #[test]
    fn numbers_are_grouped_and_have_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1000, 999_950, 1_234_567].map(short), ["0", "999", "1.0 k", "1.0 M", "1.2 M"]);
        assert_eq!([512, 44_000, 123_456_789].map(bytes), ["512 B", "44.0 kB", "123 MB"]);
        assert_eq!(
            [4, 5, 10, 17].map(|digits| precise_bytes(1_492_000_001, digits)),
            ["1.492 GB", "1.4920 GB", "1.492000001 GB", "1.492000001 GB"]
        );
        assert_eq!((precise_bytes(512, 9), precise_bytes(999_960, 5)), ("512 B".into(), "1.0000 MB".into()));
        assert_eq!(
            [(0.25, 4), (1.5e-5, 3), (1234.6, 2), (0.0, 4)].map(|(number, digits)| precise(number, digits)),
            ["0.2500", "1.50e-5", "1235", "0.000"]
        );
        assert_eq!([5.0, 300.0, 36_000.0].map(duration), ["5 s", "5 min", "10.0 h"]);
        assert_eq!([1e-5, 123_456.7, 0.001, -2.5, 7.0312].map(significant), ["1.000e-5", "123,457", "0.001", "-2.5", "7.031"]);
    }
}
