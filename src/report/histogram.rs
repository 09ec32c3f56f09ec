//! Draws how many rows are of which length, as SVG.

use serde_json::Value;

use crate::base::numbers::{counted, grouped};
use crate::report::html::escape;

/// Size of the drawing.
pub(crate) const WIDTH: f64 = 560.0;
pub(crate) const HEIGHT: f64 = 120.0;
/// Of a file that anyone may have written.
const MAX_BINS: usize = 100;

/// The drawing of `[{from, to, rows}]`, both ends included. `None` without rows.
pub(crate) fn histogram(bins: &Value) -> Option<String> {
    let bin = |one: &Value| Some((one["from"].as_u64()?, one["to"].as_u64()?, one["rows"].as_u64()?));
    let bins: Vec<(u64, u64, u64)> = bins.as_array()?.iter().take(MAX_BINS).filter_map(bin).collect();
    let most = bins.iter().map(|(.., rows)| *rows).max().filter(|most| *most > 0)?;
    let (first, last) = (bins.first()?.0, bins.last()?.1);
    let label = format!("Rows by their length: from {} to {} tokens", grouped(first), grouped(last));
    let mut svg = format!("<svg class=\"chart bars\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" aria-label=\"{}\">", escape(&label));
    let (bottom, width) = (HEIGHT - 20.0, WIDTH / bins.len() as f64);
    for (place, (from, to, rows)) in bins.iter().enumerate() {
        if *rows == 0 {
            continue;
        }
        // What is there is seen, however little it is.
        let height = ((bottom - 8.0) * *rows as f64 / most as f64).max(1.5);
        svg.push_str(&format!(
            "<rect class=\"bar-of s0\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{} to {} tokens: {}</title></rect>",
            place as f64 * width + 1.0,
            bottom - height,
            (width - 2.0).max(0.5),
            grouped(*from),
            grouped(*to),
            counted(*rows, "row")
        ));
    }
    svg.push_str(&format!("<path class=\"axis\" d=\"M0 {bottom}H{WIDTH}\"/>"));
    svg.push_str(&format!("<text x=\"0\" y=\"{}\">{}</text>", HEIGHT - 5.0, grouped(first)));
    svg.push_str(&format!("<text class=\"y\" x=\"{WIDTH}\" y=\"{}\">{} tokens</text></svg>", HEIGHT - 5.0, grouped(last)));
    Some(svg)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_length_that_occurs_is_seen() {
        let svg = histogram(
            &json!([{"from": 1, "to": 9, "rows": 100_000}, {"from": 10, "to": 19, "rows": 0}, {"from": 20, "to": 29, "rows": 1}]),
        );
        let svg = svg.unwrap();
        assert!(svg.contains("from 1 to 29 tokens") && svg.contains("20 to 29 tokens: 1 row<"), "{svg}");
        assert!(svg.contains("height=\"92.0\"") && svg.contains("height=\"1.5\"") && svg.matches("<rect").count() == 2, "{svg}");
        for nothing in [json!(null), json!([]), json!([{"from": 1, "to": 2, "rows": 0}]), json!([{"from": "<b>"}])] {
            assert_eq!(histogram(&nothing), None);
        }
    }
}
