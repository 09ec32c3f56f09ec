//! Reads and validates files without keeping what they hold.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::base::threads;
use crate::data::parse::columns::Layout;
use crate::data::read::problem::Problems;
use crate::data::read::reader::Reader;

/// Number of files, conversations and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCounts {
    pub files: usize,
    pub conversations: usize,
    pub messages: usize,
}

/// Reads and validates all files on all cores, and keeps no conversations.
///
/// # Errors
/// Kind `input`: a file that cannot be read, or the list of all problems; `interrupted`.
pub fn validate_files(files: &[PathBuf], layout: &Layout) -> Result<FileCounts> {
    let reader = Mutex::new(Some(Reader::open(files.to_vec(), layout)?));
    let work = || -> Result<(FileCounts, Problems)> {
        let (mut count, mut problems) = (FileCounts::default(), Problems::default());
        loop {
            let batch = {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                let next = reader.as_mut().map_or(Ok(None), Reader::next_batch);
                if next.is_err() {
                    // Stops the other threads too.
                    *reader = None;
                }
                next?
            };
            let Some(batch) = batch else { return Ok((count, problems)) };
            for conversation in batch.conversations(&mut problems) {
                count.conversations += 1;
                count.messages += conversation.messages.len();
            }
        }
    };
    let parts = Mutex::new(Vec::new());
    threads::on_threads(threads::available(), || {
        let part = work();
        parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    });
    let mut sum = FileCounts { files: files.len(), ..FileCounts::default() };
    let mut problems = Problems::default();
    let mut failed = None;
    for part in parts.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match part {
            Ok((count, found)) => {
                sum.conversations += count.conversations;
                sum.messages += count.messages;
                problems.append(found);
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => problems.into_result(files).map(|()| sum),
    }
}
