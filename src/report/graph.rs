//! The steps of a session as a graph: a row for each step, with lines from the steps whose outputs it uses, as `git log --graph` draws
//! commits. The rows' texts are HTML beside the drawing, so they are read aloud, and wrap on a phone.

use crate::report::html::escape;

/// Height of a row and width of a lane, in units of the drawing. On a page the drawing is as high as the rows beside it.
const ROW: f64 = 48.0;
const LANE: f64 = 16.0;
/// Width of a letter of a name, at most on average.
const COLUMN: f64 = 7.0;
/// Lines beside each other. What is beyond shares the last.
const MAX_LANES: usize = 8;

/// The lane of each step. `sources`: the earlier steps that each one uses.
///
/// A line from a source runs in the lane of the step that uses it, so that lane must be free from the row below the source to the step.
fn lanes(sources: &[Vec<usize>]) -> Vec<usize> {
    let mut taken: Vec<Vec<bool>> = Vec::new();
    let mut lanes: Vec<usize> = Vec::new();
    for (row, from) in sources.iter().enumerate() {
        let first = from.iter().min().map_or(row, |source| source + 1);
        let free = |lane: &Vec<bool>| lane[first..=row].iter().all(|taken| !taken);
        let own = from.last().map(|source| lanes[*source]).filter(|lane| free(&taken[*lane]));
        let lane = own.or_else(|| taken.iter().position(free)).unwrap_or_else(|| {
            if taken.len() < MAX_LANES {
                taken.push(vec![false; sources.len()]);
            }
            taken.len() - 1
        });
        taken[lane][first..=row].fill(true);
        lanes.push(lane);
    }
    lanes
}

/// The graph as a picture that stands alone: with the name of each step beside its node.
pub(crate) fn graph_with_names(sources: &[Vec<usize>], states: &[&str], names: &[String]) -> String {
    let drawn = graph(sources, states);
    let lanes = lanes(sources).into_iter().max().map_or(0, |most| most + 1) as f64 * LANE + 4.0;
    let height = names.len() as f64 * ROW;
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let texts: String = names
        .iter()
        .enumerate()
        .map(|(row, name)| format!("<text x=\"{}\" y=\"{}\">{}</text>", lanes + 10.0, ROW / 2.0 + 4.0 + row as f64 * ROW, escape(name)))
        .collect();
    let start = drawn.find("><").map_or(0, |at| at + 1);
    format!(
        "<svg role=\"img\" aria-label=\"The steps of the session\" viewBox=\"0 0 {} {height}\">{}",
        lanes + 20.0 + COLUMN * longest as f64,
        drawn[start..].replacen("</svg>", &format!("{texts}</svg>"), 1)
    )
}

/// Draws the graph. `states` are classes of the nodes.
pub(crate) fn graph(sources: &[Vec<usize>], states: &[&str]) -> String {
    let lanes = lanes(sources);
    let width = (lanes.iter().max().map_or(0, |most| most + 1) as f64) * LANE + 4.0;
    let x = |lane: usize| LANE / 2.0 + 2.0 + lane as f64 * LANE;
    let y = |row: usize| ROW / 2.0 + row as f64 * ROW;
    let mut svg = format!(
        "<svg class=\"lanes\" aria-hidden=\"true\" width=\"{}rem\" preserveAspectRatio=\"none\" viewBox=\"0 0 {width} {}\">",
        width / LANE,
        lanes.len() as f64 * ROW
    );
    for (row, from) in sources.iter().enumerate() {
        for source in from {
            let (x0, y0, x1, y1) = (x(lanes[*source]), y(*source), x(lanes[row]), y(row));
            let middle = y0 + ROW / 2.0;
            let turn = if lanes[*source] == lanes[row] { String::new() } else { format!("C{x0} {middle} {x1} {middle} {x1} {}", y0 + ROW) };
            svg.push_str(&format!("<path class=\"edge\" d=\"M{x0} {y0}{turn}V{y1}\"/>"));
        }
    }
    for (row, state) in states.iter().enumerate() {
        // A dot is a line without length, whose ends stay round however the rows are stretched.
        let at = format!("d=\"M{} {}h.01\"", x(lanes[row]), y(row));
        svg.push_str(&format!("<path class=\"node {state}\" {at}/>"));
        if !["success", "failure"].contains(state) {
            svg.push_str(&format!("<path class=\"hole\" {at}/>"));
        }
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_runs_through_the_node_of_another_step() {
        // The sample pipeline: full, lora, continued lora, merge, 8 bit, GGUF, adapter's GGUF, and four answers.
        let sources = vec![vec![], vec![0], vec![0, 1], vec![2], vec![3], vec![3], vec![2], vec![0], vec![1], vec![2], vec![4]];
        let lanes = lanes(&sources);
        for (row, from) in sources.iter().enumerate() {
            let first = from.iter().min().map_or(row, |source| source + 1);
            for between in first..row {
                assert_ne!(lanes[between], lanes[row], "step {between} is in the line to {row}: {lanes:?}");
            }
        }
        assert_eq!(lanes[..4], [0, 0, 1, 1], "a chain stays in its lane");
    }

    #[test]
    fn many_branches_share_the_last_lane() {
        let sources: Vec<Vec<usize>> = (0..50).map(|row| if row == 0 { vec![] } else { vec![0] }).collect();
        assert_eq!(lanes(&sources).into_iter().max(), Some(MAX_LANES - 1));
        let svg = graph(&sources, &["success"; 50]);
        assert_eq!((svg.matches("\"node ").count(), svg.matches("\"edge\"").count()), (50, 49));
    }
}
