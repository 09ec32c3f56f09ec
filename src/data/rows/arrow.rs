//! Rows as an Arrow IPC stream with the columns `input_ids` and `labels`, lists of int32: `datasets.Dataset.from_file` maps it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, Int32Array, ListArray, RecordBatch};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::base::files::Writer;
use crate::data::rows::sample::IGNORED;

/// Rows, concatenated: the ids and labels of all rows, and the offset at which each row ends. `labels[k]` is `input_ids[k]` or
/// [`IGNORED`], so the loss must shift them by one.
#[derive(Clone, Debug, Default)]
pub struct TokenRows {
    pub input_ids: Vec<i32>,
    pub labels: Vec<i32>,
    pub ends: Vec<i32>,
}

impl TokenRows {
    pub fn push(&mut self, input_ids: &[i32], labels: &[i32]) {
        self.input_ids.extend_from_slice(input_ids);
        self.labels.extend_from_slice(labels);
        self.ends.push(self.input_ids.len() as i32);
    }

    /// Adds a row that begins with `before`. Only the tokens of `input_ids` in the ranges `trained` are trained on.
    pub(crate) fn push_after(&mut self, before: &[i32], input_ids: &[i32], trained: impl Iterator<Item = Range<usize>>) {
        self.input_ids.extend_from_slice(before);
        let start = self.input_ids.len();
        self.input_ids.extend_from_slice(input_ids);
        for part in trained {
            self.labels.resize(start + part.start, IGNORED);
            self.labels.extend_from_slice(&input_ids[part]);
        }
        self.labels.resize(self.input_ids.len(), IGNORED);
        self.ends.push(self.input_ids.len() as i32);
    }

    /// Reserves capacity for that many additional tokens.
    pub fn reserve(&mut self, tokens: usize) {
        self.input_ids.reserve(tokens);
        self.labels.reserve(tokens);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Ids and labels of a row.
    pub fn get(&self, row: usize) -> (&[i32], &[i32]) {
        let range = row.checked_sub(1).map_or(0, |before| self.ends[before] as usize)..self.ends[row] as usize;
        (&self.input_ids[range.clone()], &self.labels[range])
    }
}

/// Size and hash of a complete file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCheck {
    pub rows: u64,
    pub bytes: u64,
    /// xxh3 of the bytes, as 16 hexadecimal digits.
    pub xxh3: String,
}

/// Counts and hashes the bytes that are written.
struct HashingWriter {
    file: BufWriter<Writer>,
    hash: Xxh3,
    bytes: u64,
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Writes rows to an Arrow file.
pub struct RowsWriter {
    stream: StreamWriter<HashingWriter>,
    schema: Arc<Schema>,
    rows: u64,
}

fn schema() -> Schema {
    let list = || DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
    Schema::new(vec![Field::new("input_ids", list(), true), Field::new("labels", list(), true)])
}

impl RowsWriter {
    pub fn create(path: &Path) -> Result<RowsWriter> {
        let file = Writer::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        let schema = Arc::new(schema());
        // Columns are larger than the buffer, so they are written directly.
        let writer = HashingWriter { file: BufWriter::new(file), hash: Xxh3::new(), bytes: 0 };
        Ok(RowsWriter { stream: StreamWriter::try_new(writer, &schema)?, schema, rows: 0 })
    }

    pub fn write(&mut self, rows: TokenRows) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.rows += rows.len() as u64;
        let offsets: Vec<i32> = std::iter::once(0).chain(rows.ends).collect();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let column = |values: Vec<i32>| -> Result<ArrayRef> {
            let field = Arc::new(Field::new("item", DataType::Int32, true));
            Ok(Arc::new(ListArray::try_new(field, offsets.clone(), Arc::new(Int32Array::from(values)), None)?))
        };
        let columns = vec![column(rows.input_ids)?, column(rows.labels)?];
        Ok(self.stream.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?)
    }

    /// Completes the file, without `fsync`: its hash is checked when it is opened, so after a power loss it is made again.
    pub fn finish(mut self) -> Result<FileCheck> {
        self.stream.finish()?;
        let mut writer = self.stream.into_inner()?;
        writer.file.flush()?;
        Ok(FileCheck { rows: self.rows, bytes: writer.bytes, xxh3: format!("{:016x}", writer.hash.digest()) })
    }
}

/// Reads a file of rows, batch by batch.
pub fn read_rows(path: &Path, mut each: impl FnMut(TokenRows) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    for batch in StreamReader::try_new(BufReader::with_capacity(1 << 20, file), None)? {
        let batch = batch?;
        let (ids, labels) = (batch.column(0).as_list::<i32>(), batch.column(1).as_list::<i32>());
        let values = |list: &ListArray| list.values().as_primitive::<Int32Type>().values().to_vec();
        each(TokenRows { input_ids: values(ids), labels: values(labels), ends: ids.offsets()[1..].to_vec() })?;
    }
    Ok(())
}
