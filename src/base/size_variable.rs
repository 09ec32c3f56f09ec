//! Environment variables that hold a number of bytes.

use anyhow::Result;

use crate::base::error;

/// The bytes that the variable `name` sets, otherwise `default`.
///
/// # Errors
/// Kind `usage` if it is not a size.
pub(crate) fn size_variable(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.trim().is_empty() => parse_size(text.trim()).ok_or_else(|| {
            error::usage(format!("{name}={text} is not a size; give bytes, or a number with KiB, MiB, GiB or TiB, such as 20GiB"))
        }),
        _ => Ok(default),
    }
}

/// A number of bytes, also with a unit: `1.5GiB`, `500 MiB`, `20G`. Units are powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..digits].parse::<f64>().ok()?, text[digits..].trim());
    let unit = unit.to_ascii_uppercase();
    let power = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return None,
    };
    Some((number * 1024_f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let sizes =
            [("0", 0), ("123", 123), ("1K", 1 << 10), ("1.5 GiB", 3 << 29), ("500MiB", 500 << 20), ("20GB", 20 << 30), ("2tib", 2 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "GiB", "much", "-1", "1X", "1.2.3", "1e9"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
