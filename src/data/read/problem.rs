//! Problems of a data set with their positions, in the order of the files, regardless of which thread found them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::base::error;

/// Maximum number of problems in one message.
pub const SHOWN: usize = 20;

/// One problem in a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Index of the file, from 0.
    pub file: usize,
    /// Line from 1; 0 for a problem of the whole file.
    pub line: usize,
    /// Column from 1, in characters; 0 in a table, where the path names the column.
    pub column: usize,
    /// JSON path in the file, such as `[3].messages[1].role`; empty outside the conversations and for invalid JSON.
    pub path: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.path.as_str()) {
            (0, _) => f.write_str(&self.text),
            (line, path) if self.column == 0 => write!(f, "line {line}, {path}: {}", self.text),
            (line, "") => write!(f, "line {line}, column {}: {}", self.column, self.text),
            (line, path) => write!(f, "line {line}, column {}, {path}: {}", self.column, self.text),
        }
    }
}

/// The first problems and the number of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    first: Vec<Problem>,
    /// By file.
    counts: BTreeMap<usize, usize>,
    /// Files whose text is not what was written. The problem that says so is the only one of the file: others are its consequence.
    corrupt: BTreeSet<usize>,
}

impl Problems {
    /// Adds a problem, and keeps it if it is among the first by position. At the same position, the one found earlier comes first.
    pub fn add(&mut self, problem: Problem) {
        if !self.corrupt.contains(&problem.file) {
            *self.counts.entry(problem.file).or_default() += 1;
            self.keep(problem);
        }
    }

    /// Adds the problem that a file is corrupt.
    pub(crate) fn add_corruption(&mut self, problem: Problem) {
        self.forget_others(problem.file);
        self.keep(problem);
    }

    fn forget_others(&mut self, file: usize) {
        self.corrupt.insert(file);
        self.first.retain(|problem| problem.file != file);
        self.counts.insert(file, 1);
    }

    fn keep(&mut self, problem: Problem) {
        let place = |problem: &Problem| (problem.file, problem.line, problem.column);
        let at = self.first.partition_point(|kept| place(kept) <= place(&problem));
        if at < SHOWN {
            self.first.insert(at, problem);
            self.first.truncate(SHOWN);
        }
    }

    /// Adds the problems that another thread found.
    pub fn append(&mut self, other: Problems) {
        for (file, count) in other.counts {
            if other.corrupt.contains(&file) {
                self.forget_others(file);
            } else if !self.corrupt.contains(&file) {
                *self.counts.entry(file).or_default() += count;
            }
        }
        for problem in other.first {
            if other.corrupt.contains(&problem.file) || !self.corrupt.contains(&problem.file) {
                self.keep(problem);
            }
        }
    }

    /// Counts problems of a file that are known not to be among the first.
    pub(crate) fn add_unseen(&mut self, file: usize, count: usize) {
        if count > 0 && !self.corrupt.contains(&file) {
            *self.counts.entry(file).or_default() += count;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Number of all problems, including those that were not kept.
    pub fn count(&self) -> usize {
        self.counts.values().sum()
    }

    /// The first problems, in the order of the files.
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// Returns an error of kind `input` that lists the problems, if there are any. With several files, each problem names its file.
    pub fn into_result(self, files: &[PathBuf]) -> anyhow::Result<()> {
        if self.is_empty() { Ok(()) } else { Err(error::input(self.report(files))) }
    }

    fn report(&self, files: &[PathBuf]) -> String {
        let name = |problem: &Problem| files.get(problem.file).map_or(Path::new("data"), PathBuf::as_path).display();
        if let ([only], 1) = (self.first.as_slice(), self.count()) {
            // "data.json contains …" is a sentence, "data.json: line 3 …" starts with a position.
            let colon = if only.line == 0 { "" } else { ":" };
            return format!("{}{colon} {only}", name(only));
        }
        let one_file = files.len() == 1;
        let mut lines = vec![if one_file {
            format!("{}: {} problems", files[0].display(), self.count())
        } else {
            format!("{} problems in {} files", self.count(), files.len())
        }];
        lines.extend(self.first.iter().map(|problem| {
            let colon = if problem.line == 0 { "" } else { ":" };
            if one_file { format!("  {problem}") } else { format!("  {}{colon} {problem}", name(problem)) }
        }));
        if self.count() > self.first.len() {
            lines.push(format!("  … and {} more", self.count() - self.first.len()));
        }
        lines.join("\n")
    }
}
