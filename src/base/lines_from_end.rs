//! The lines of a file from its end, read in blocks: a log or a list of metrics can have many gigabytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::base::files;

const BLOCK: u64 = 1 << 16;

/// The lines of a file, the last one first, without their line breaks. The last line may have none.
#[derive(Debug)]
pub(crate) struct LinesFromEnd {
    file: File,
    /// What stands before this byte has not been read.
    start: u64,
    /// What was read and not returned, without `pieces`.
    block: Vec<u8>,
    /// Parts of the line whose beginning has not been found, the last part first.
    pieces: Vec<Vec<u8>>,
    ended: bool,
}

impl LinesFromEnd {
    /// Opens one of our files.
    pub(crate) fn open(path: &Path) -> io::Result<LinesFromEnd> {
        let file = files::open_own(path)?;
        let mut start = file.metadata()?.len();
        let ended = start == 0;
        if !ended {
            let mut last = [0];
            file.read_exact_at(&mut last, start - 1)?;
            start -= u64::from(last == *b"\n");
        }
        Ok(LinesFromEnd { file, start, block: Vec::new(), pieces: Vec::new(), ended })
    }

    fn line(&mut self, last_part: Vec<u8>) -> String {
        let mut line = last_part;
        self.pieces.drain(..).rev().for_each(|piece| line.extend(piece));
        String::from_utf8_lossy(&line).into_owned()
    }
}

impl Iterator for LinesFromEnd {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some(at) = memchr::memrchr(b'\n', &self.block) {
                let rest = self.block.split_off(at + 1);
                self.block.pop();
                return Some(Ok(self.line(rest)));
            }
            let block = std::mem::take(&mut self.block);
            if self.start == 0 {
                self.ended = true;
                return Some(Ok(self.line(block)));
            }
            self.pieces.push(block);
            let length = self.start.min(BLOCK);
            self.start -= length;
            self.block = vec![0; length as usize];
            if let Err(error) = self.file.read_exact_at(&mut self.block, self.start) {
                self.ended = true;
                return Some(Err(error));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_of_any_length_come_backwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let long: Vec<String> = (0..40).map(|number| format!("{number}-{}", "x".repeat(number * 997 % 140_000))).collect();
        for text in [
            String::new(),
            "\n".into(),
            "a".into(),
            "a\n".into(),
            "\na\n\n".into(),
            "a\nb\nc".into(),
            long.join("\n"),
            long.join("\n") + "\n",
        ] {
            fs::write(&path, &text).unwrap();
            let read: Vec<String> = LinesFromEnd::open(&path).unwrap().map(Result::unwrap).collect();
            let wanted: Vec<&str> = text.lines().rev().collect();
            assert!(read == wanted, "{:?}", &text[..text.len().min(40)]);
        }
    }
}
