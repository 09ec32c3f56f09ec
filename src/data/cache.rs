//! Prepared data sets, kept under a key of everything that decides their bytes.
//!
//! `<cache>/data/<key>/` holds `train.arrow`, perhaps `eval.arrow`, and `report.json`, which says how long the others are and what
//! they hash to. A folder is made beside its place and renamed, so processes that make the same do not meet; what is not whole when
//! it is opened is made anew.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::arrow::FileCheck;
use super::options::Options;
use super::prepare::Counts;
use crate::files;

/// A data set as rows to train on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prepared {
    /// Arrow IPC stream of the rows to train on.
    pub path: PathBuf,
    /// The rows held out, with `eval_split`.
    pub eval_path: Option<PathBuf>,
    pub eval_rows: u64,
    /// Hash of the files' content (xxh3, 32 hexadecimal digits).
    pub digest: String,
    #[serde(flatten)]
    pub counts: Counts,
    /// Whether it was there already.
    pub cached: bool,
}

/// `report.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub counts: Counts,
    pub train: FileCheck,
    pub eval: Option<FileCheck>,
}

pub(super) const TRAIN: &str = "train.arrow";
pub(super) const EVAL: &str = "eval.arrow";

/// The user's cache: `PYRUST_NN_CACHE`, else `pyrust-nn` in `XDG_CACHE_HOME` or `~/.cache`.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_else(std::env::temp_dir).join(".cache");
    set("PYRUST_NN_CACHE").unwrap_or_else(|| set("XDG_CACHE_HOME").unwrap_or_else(home).join("pyrust-nn"))
}

/// Where one prepared data set is kept.
#[derive(Debug)]
pub(super) struct Entry {
    folder: PathBuf,
    files: u128,
}

impl Entry {
    /// Digests of the files, the tokenizer and the template.
    pub(super) fn new(cache: &Path, files: u128, tokenizer: u128, template: u128, options: &Options) -> Result<Entry> {
        let all = format!("{} {files:x} {tokenizer:x} {template:x} {}", env!("CARGO_PKG_VERSION"), serde_json::to_string(options)?);
        Ok(Entry { folder: cache.join("data").join(format!("{:032x}", xxh3_128(all.as_bytes()))), files })
    }

    /// The data set, if it is there and whole.
    pub(super) fn open(&self) -> Option<Prepared> {
        let report: Report = serde_json::from_slice(&std::fs::read(self.folder.join("report.json")).ok()?).ok()?;
        let whole = is_whole(&self.folder.join(TRAIN), &report.train)
            && report.eval.as_ref().is_none_or(|eval| is_whole(&self.folder.join(EVAL), eval));
        whole.then(|| self.prepared(&report, true))
    }

    fn prepared(&self, report: &Report, cached: bool) -> Prepared {
        Prepared {
            path: self.folder.join(TRAIN),
            eval_path: report.eval.as_ref().map(|_| self.folder.join(EVAL)),
            eval_rows: report.eval.as_ref().map_or(0, |eval| eval.rows),
            digest: format!("{:032x}", self.files),
            counts: report.counts.clone(),
            cached,
        }
    }

    /// Makes it: `work` fills an empty folder and gives its report. On an error nothing stays.
    pub(super) fn make(&self, work: impl FnOnce(&Path) -> Result<Report>) -> Result<Prepared> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = self.folder.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(parent).with_context(|| format!("the cache {} cannot be made; set PYRUST_NN_CACHE to a folder", parent.display()))?;
        sweep(parent);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let beside = files::beside(&self.folder, &format!("partial-{}-{number}", std::process::id()));
        let made = (|| -> Result<Prepared> {
            std::fs::create_dir(&beside).with_context(|| format!("{} cannot be made", beside.display()))?;
            let report = work(&beside)?;
            files::write_json(&beside.join("report.json"), &report)?;
            if std::fs::rename(&beside, &self.folder).is_err() {
                // Another process was first, or what is there is broken.
                if self.open().is_none() {
                    files::remove(&self.folder)?;
                    std::fs::rename(&beside, &self.folder).with_context(|| format!("{} cannot take its place", self.folder.display()))?;
                }
            }
            Ok(self.prepared(&report, false))
        })();
        drop(files::remove(&beside));
        made
    }
}

/// Removes what processes left that were killed.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split_once(".partial-").and_then(|(_, rest)| rest.split('-').next()?.parse::<i32>().ok());
        // SAFETY: signal 0 asks whether the process is there and does nothing.
        if owner.is_some_and(|pid| unsafe { libc::kill(pid, 0) } != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)) {
            drop(files::remove(&entry.path()));
        }
    }
}

fn is_whole(path: &Path, check: &FileCheck) -> bool {
    let hashed = (|| -> std::io::Result<String> {
        let mut file = BufReader::with_capacity(0, File::open(path)?);
        if file.get_ref().metadata()?.len() != check.bytes {
            return Ok(String::new());
        }
        let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(format!("{:016x}", hash.digest())),
                n => hash.update(&buffer[..n]),
            }
        }
    })();
    hashed.is_ok_and(|found| found == check.xxh3)
}
