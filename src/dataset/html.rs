//! The report of `check` as one page for a browser. It loads nothing: style and content are in the file, and there is no script.

use std::fmt::Write;

use crate::base::numbers::{bytes, counted, duration, grouped};
use crate::data::{Preview, each_symbol};
use crate::dataset::explanations::explanation;
use crate::dataset::report::CheckReport;

const STYLE: &str = include_str!("html.css");

/// The whole page.
pub(crate) fn page(report: &CheckReport) -> String {
    let files: Vec<String> = report.files.iter().map(|file| file.display().to_string()).collect();
    let mut page = Page(String::new());
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>");
    page.text(&format!("check {}", files.first().map_or("", String::as_str)));
    page.raw("</title>\n<style>\n").raw(STYLE).raw("</style>\n</head>\n<body>\n<h1>");
    page.text(&files.join(", ")).raw("</h1>\n");
    page.verdict(report);
    page.statistics(report);
    page.findings(report);
    page.turns(report);
    page.lengths(report);
    page.samples(report);
    page.estimate(report);
    page.raw("</body>\n</html>\n");
    page.0
}

struct Page(String);

impl Page {
    /// Adds HTML.
    fn raw(&mut self, html: &str) -> &mut Page {
        self.0.push_str(html);
        self
    }

    /// Adds text. Characters that are not printed become their names.
    fn text(&mut self, text: &str) -> &mut Page {
        each_symbol(text, &mut |symbol, printed| match symbol {
            _ if !printed => drop(write!(self.0, "<span class=\"u\">U+{:04X}</span>", symbol as u32)),
            '&' => self.0.push_str("&amp;"),
            '<' => self.0.push_str("&lt;"),
            '>' => self.0.push_str("&gt;"),
            '"' => self.0.push_str("&quot;"),
            symbol => self.0.push(symbol),
        });
        self
    }

    fn row(&mut self, name: &str, value: &str) {
        self.raw("<tr><th scope=\"row\">").text(name).raw("</th><td>").text(value).raw("</td></tr>\n");
    }

    fn verdict(&mut self, report: &CheckReport) {
        let count = report.problem_count + report.errors.len() as u64;
        if report.ok {
            self.raw("<p class=\"verdict good\">Ready: training accepts this data.</p>\n");
        } else {
            let errors = counted(count, "error");
            self.raw("<p class=\"verdict bad\">Not ready: ").text(&errors).raw(".</p>\n");
        }
    }

    fn statistics(&mut self, report: &CheckReport) {
        let counts = &report.counts;
        self.raw("<table>\n");
        self.row("model", &report.model.display().to_string());
        self.row("conversations", &grouped(counts.conversations));
        self.row("rows", &grouped(counts.rows));
        let share = percent(counts.target_tokens, counts.tokens);
        self.row("tokens", &format!("{}, of which {} ({share}) are trained on", grouped(counts.tokens), grouped(counts.target_tokens)));
        if let Some(evaluation) = &report.evaluation {
            let files: Vec<String> = evaluation.files.iter().map(|file| file.display().to_string()).collect();
            let (rows, leaked) = (counted(evaluation.counts.rows, "row"), counted(evaluation.leaked, "conversation"));
            self.row("evaluation", &format!("{}: {rows}, {leaked} also trained on", files.join(", ")));
        }
        for (name, count) in [
            ("rows held out", report.eval_rows),
            ("samples truncated", counts.truncated),
            ("samples dropped", counts.dropped),
            ("tokens lost", counts.lost_tokens),
            ("conversations split into one row per turn", counts.split_conversations),
            ("answers tokenized apart from their prompt", counts.separately_tokenized_turns),
            ("duplicate conversations", counts.duplicates),
        ] {
            if count > 0 {
                self.row(name, &grouped(count));
            }
        }
        self.raw("</table>\n");
    }

    /// Errors, warnings and notes, each with what it means.
    fn findings(&mut self, report: &CheckReport) {
        if report.problem_count > 0 {
            self.raw("<h2>Problems in the files</h2>\n<div class=\"wide\"><table>\n<tr><th>file</th><th>place</th><th>problem</th></tr>\n");
            for fault in &report.problems {
                let place =
                    if fault.line == 0 { String::new() } else { format!("line {}, column {} {}", fault.line, fault.column, fault.path) };
                self.raw("<tr><td>").text(&fault.file.display().to_string()).raw("</td><td>").text(&place).raw("</td><td>");
                self.text(&fault.text).raw("</td></tr>\n");
            }
            self.raw("</table></div>\n");
            let more = report.problem_count - report.problems.len() as u64;
            if more > 0 {
                self.raw("<p class=\"soft\">and ").text(&grouped(more)).raw(" more</p>\n");
            }
        }
        for (heading, class, sentences) in
            [("Errors", "error", &report.errors), ("Warnings", "warning", &report.warnings), ("Notes", "note", &report.notes)]
        {
            if sentences.is_empty() {
                continue;
            }
            self.raw("<h2>").text(heading).raw("</h2>\n");
            for sentence in sentences {
                self.raw(&format!("<div class=\"{class}\">\n<p>")).text(sentence).raw("</p>\n<p class=\"soft\">");
                self.text(explanation(class, sentence)).raw("</p>\n</div>\n");
            }
        }
    }

    fn turns(&mut self, report: &CheckReport) {
        if report.turns.is_empty() {
            return;
        }
        let (all, trained) = (report.turns.iter().map(|one| one.tokens).sum(), report.turns.iter().map(|one| one.target_tokens).sum());
        self.raw("<h2>Tokens by kind of turn</h2>\n<p class=\"soft\">A turn includes its header and the token that ends it. ");
        self.raw("Descriptions of tools belong to the system turn, calls of tools to the answer.</p>\n<div class=\"wide\"><table>\n");
        self.raw("<tr><th>turn</th><th class=\"n\">tokens</th><th class=\"n\">share</th><th class=\"n\">trained</th><th class=\"n\">share</th></tr>\n");
        for one in &report.turns {
            self.raw("<tr><th scope=\"row\">").text(one.kind.as_str()).raw("</th>");
            for cell in [grouped(one.tokens), percent(one.tokens, all), grouped(one.target_tokens), percent(one.target_tokens, trained)] {
                self.raw("<td class=\"n\">").text(&cell).raw("</td>");
            }
            self.raw("</tr>\n");
        }
        self.raw("</table></div>\n");
    }

    fn lengths(&mut self, report: &CheckReport) {
        let lengths = &report.lengths;
        let Some(most) = lengths.histogram.iter().map(|bin| bin.rows).max() else { return };
        let [median, p90, p99, max] = [lengths.median, lengths.p90, lengths.p99, lengths.max].map(|length| grouped(u64::from(length)));
        self.raw("<h2>Tokens of a row</h2>\n<p class=\"soft\">");
        self.text(&format!("median {median}, 90 % up to {p90}, 99 % up to {p99}, longest {max}")).raw("</p>\n<table>\n");
        for bin in &lengths.histogram {
            let range = if bin.from == bin.to {
                grouped(bin.from.into())
            } else {
                format!("{} – {}", grouped(bin.from.into()), grouped(bin.to.into()))
            };
            self.raw("<tr><th scope=\"row\" class=\"n\">").text(&range).raw("</th><td class=\"bar\">");
            if bin.rows > 0 {
                self.raw(&format!("<span style=\"width: {:.1}%\"></span>", 100.0 * bin.rows as f64 / most as f64));
            }
            self.raw("</td><td class=\"n\">").text(&grouped(bin.rows)).raw("</td></tr>\n");
        }
        self.raw("</table>\n");
        if report.too_long.count > 0 {
            let words = format!(
                "{} longer than max_length; the longest has {}",
                if report.too_long.count == 1 { "1 sample is".into() } else { format!("{} samples are", grouped(report.too_long.count)) },
                counted(report.counts.longest, "token")
            );
            self.raw("<p>").text(&words).raw("</p>\n");
        }
    }

    fn samples(&mut self, report: &CheckReport) {
        if report.previews.is_empty() {
            return;
        }
        self.raw(
            "<h2>Samples</h2>\n<p class=\"soft\">As the model gets them. <span class=\"t\">Coloured and underlined</span> tokens are ",
        );
        self.raw("trained on: the loss counts them alone. <span class=\"c\">These</span> are special tokens.</p>\n");
        report.previews.iter().for_each(|preview| self.sample(preview));
    }

    fn sample(&mut self, preview: &Preview) {
        let (tokens, trained) = (counted(preview.tokens.into(), "token"), grouped(preview.target_tokens.into()));
        self.raw("<h3>").text(&preview.place()).raw("</h3>\n<p class=\"soft\">");
        if preview.kept == 0 {
            self.text(&format!("{tokens}, left out: too long, or no turn to train on")).raw("</p>\n");
            return;
        }
        let cut = if preview.kept < preview.tokens { format!(", cut to {}", grouped(preview.kept.into())) } else { String::new() };
        self.text(&format!("{tokens}{cut}, {trained} trained on")).raw("</p>\n<pre>");
        let mut within = false;
        for piece in &preview.pieces {
            if piece.target != within {
                self.raw(if piece.target { "<span class=\"t\">" } else { "</span>" });
                within = piece.target;
            }
            if piece.control {
                self.raw("<span class=\"c\">").text(&piece.text).raw("</span>");
            } else {
                self.text(&piece.text);
            }
        }
        self.raw(if within { "</span></pre>\n" } else { "</pre>\n" });
    }

    fn estimate(&mut self, report: &CheckReport) {
        if !report.ok {
            return;
        }
        let estimate = &report.estimate;
        self.raw("<h2>Estimate</h2>\n<table>\n");
        self.row("computed on", &format!("{} in {}", estimate.device, estimate.dtype));
        self.row("steps", &format!("{}, {} per epoch", grouped(estimate.steps), grouped(estimate.steps_per_epoch)));
        if let Some(memory) = &estimate.memory {
            self.row("memory", &bytes(memory.total));
        }
        if let Some(disk) = &estimate.disk {
            self.row("disk", &bytes(disk.total));
        }
        if let Some(time) = &estimate.time {
            self.row("time", &format!("roughly {}", duration(time.seconds)));
        }
        for missing in &estimate.missing {
            self.row("not estimated", missing);
        }
        self.raw("</table>\n");
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}
