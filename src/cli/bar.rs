//! The line of a progress bar, fitted to the width of the terminal.

use crate::base::progress::Update;
use crate::cli::text::Style;
use crate::cli::wrap::{cut, width_of};

/// Columns of the bar itself.
const MOST: usize = 40;
const LEAST: usize = 8;

/// A line of at most `width` columns, such as `tune  45% ━━━━━━━━━─────────── 144/320  loss 0.1605  0:18 left`.
///
/// In a narrow terminal the bar gets shorter. Then bar, title and counts are left out, in this order.
pub(crate) fn bar_line(title: &str, update: Update<'_>, width: usize, style: Style) -> String {
    let share = if update.total == 0 { 0.0 } else { (update.done as f64 / update.total as f64).min(1.0) };
    // 100% only at the end.
    let percent = format!("{:>3.0}%", (share * 100.0).floor());
    let counts = format!("{}/{}", update.done, update.total);
    let words = |parts: &[&str]| parts.iter().filter(|part| !part.is_empty()).map(|part| part.trim_end()).collect::<Vec<_>>().join("  ");
    let (before, after) = (words(&[title, &percent]), words(&[&counts, update.text]));
    let room = width.saturating_sub(width_of(&before) + width_of(&after) + 2);
    if room >= LEAST {
        let columns = room.min(MOST);
        let done = (share * columns as f64).floor() as usize;
        return format!("{before} {}{} {after}", style.bar(&"━".repeat(done)), style.dim(&"─".repeat(columns - done)));
    }
    let shorter = [words(&[&before, &after]), words(&[&percent, &after]), words(&[&percent, update.text])];
    let fitting = shorter.iter().find(|line| width_of(line) <= width);
    cut(fitting.unwrap_or(&shorter[2]), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colors: false };

    fn line(width: usize) -> String {
        bar_line("finetune_lora", Update { done: 144, total: 320, text: "loss 0.1605  0:18 left" }, width, PLAIN)
    }

    #[test]
    fn it_fits_every_width() {
        for width in 0..200 {
            assert!(line(width).chars().count() <= width, "{width}: {}", line(width));
        }
        assert_eq!(line(140), format!("finetune_lora   45% {}{} 144/320  loss 0.1605  0:18 left", "━".repeat(18), "─".repeat(22)));
        assert_eq!(line(64), format!("finetune_lora   45% {}{} 144/320  loss 0.1605  0:18 left", "━".repeat(5), "─".repeat(7)));
        assert_eq!(line(54), "finetune_lora   45%  144/320  loss 0.1605  0:18 left");
        assert_eq!(line(40), " 45%  144/320  loss 0.1605  0:18 left");
        assert_eq!(line(30), " 45%  loss 0.1605  0:18 left");
        assert_eq!(line(16), " 45%  loss 0.16…");
    }

    #[test]
    fn it_is_full_only_at_the_end() {
        let at = |done, total| bar_line("x", Update { done, total, text: "" }, 60, PLAIN);
        assert!(at(999, 1000).contains(" 99% ") && at(999, 1000).contains('─'));
        assert!(at(1000, 1000).contains("100% ") && !at(1000, 1000).contains('─'));
        assert!(at(0, 0).contains("  0% ") && !at(0, 0).contains('━'));
    }
}
