//! The rows of one tensor to be written: the source of each row, and its bytes.

use anyhow::{Context, Result, bail, ensure};

use crate::base::error;
use crate::gguf::encode::{all_finite, decode, encode, encode_rows, round_to_half};
use crate::gguf::imatrix::ImportanceMatrix;
use crate::gguf::plan::{IndexRange, PlannedTensor, TensorPart};
use crate::gguf::quants::{Form, Rows, is_searched};
use crate::gguf::safetensors_file::{SafetensorsFile, StoredTensor, StoredType};

/// Numbers decoded at a time: enough for all lanes of an encoder, and few enough for a core's cache.
const NUMBERS_AT_ONCE: usize = 64 << 10;

/// A tensor of the plan, checked against the stored tensors that it is made of.
pub(crate) struct TensorRows<'a> {
    pub tensor: &'a PlannedTensor,
    pub count: usize,
    /// Bytes of one row in the file to be written.
    pub row_bytes: usize,
    columns: usize,
    /// Numbers are rounded to float16 before they are encoded in blocks.
    half: bool,
    /// The importance of columns: one expert's after another's.
    importance: Option<&'a [f32]>,
    /// Consecutive rows of a source, in the order of the target's rows.
    runs: Vec<Run<'a>>,
}

struct Run<'a> {
    /// Index of the run's first row in the target.
    first: usize,
    count: usize,
    from: RowSource<'a>,
}

enum RowSource<'a> {
    /// Whole rows, contiguous in the file.
    Contiguous(StoredType, &'a [u8]),
    /// Rows whose elements are gathered: chosen columns, a transposed matrix, or an addend.
    Gathered {
        matrix: Matrix<'a>,
        row: usize,
        columns: Vec<IndexRange>,
    },
    Values(&'a [f32]),
}

/// A stored tensor as a matrix: its last dimension is the columns, or the rows if transposed.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    stored: StoredType,
    data: &'a [u8],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> TensorRows<'a> {
    /// Checks everything that the plan says about a tensor. After this check, no row is outside its source.
    pub fn bind(
        tensor: &'a PlannedTensor,
        sources: &'a [SafetensorsFile],
        half: bool,
        imatrix: Option<&'a ImportanceMatrix>,
    ) -> Result<TensorRows<'a>> {
        let mut rows = TensorRows::checked(tensor, sources)
            .with_context(|| format!("tensor {} of the GGUF plan does not match its source", tensor.name))?;
        rows.half = half && tensor.format.block().0 > 1;
        if is_searched(tensor.format) {
            rows.importance = rows.importance_of(imatrix)?;
        }
        Ok(rows)
    }

    /// The importance of this tensor's columns. An importance matrix of another model is refused.
    fn importance_of(&self, imatrix: Option<&'a ImportanceMatrix>) -> Result<Option<&'a [f32]>> {
        let (name, wanted) = (&self.tensor.name, self.columns * (self.count / self.rows_of_expert()));
        match imatrix.and_then(|imatrix| imatrix.of(name)) {
            Some(importance) if importance.len() == wanted => Ok(Some(importance)),
            // llama-imatrix may store one of the output matrix under this name.
            Some(_) if name == "token_embd.weight" => Ok(None),
            Some(importance) => Err(error::model(format!(
                "the importance matrix has {} columns for {name}, which has {wanted}: it was computed on another model; compute it on this one",
                importance.len()
            ))),
            None => Ok(None),
        }
    }

    /// The rows of one matrix, of which experts have several.
    fn rows_of_expert(&self) -> usize {
        self.tensor.shape.iter().rev().nth(1).copied().unwrap_or(1)
    }

    fn checked(tensor: &'a PlannedTensor, sources: &'a [SafetensorsFile]) -> Result<TensorRows<'a>> {
        let (count, columns) = tensor.matrix().context("its shape is empty or too large")?;
        ensure!(count > 0 && columns > 0, "its shape {:?} has no elements", tensor.shape);
        let row_bytes = tensor.format.bytes(columns);
        let row_bytes =
            row_bytes.with_context(|| format!("its rows of {columns} elements are not a multiple of the block of {:?}", tensor.format))?;
        ensure!(count.checked_mul(row_bytes).is_some(), "its shape {:?} is too large", tensor.shape);

        let mut rows = TensorRows { tensor, count, row_bytes, columns, half: false, importance: None, runs: Vec::new() };
        let mut found = 0;
        if let Some(values) = &tensor.values {
            ensure!(tensor.parts.is_empty() && Some(values.len()) == count.checked_mul(columns), "it has {} values", values.len());
            rows.runs.push(Run { first: 0, count, from: RowSource::Values(values) });
            found = count;
        }
        for part in &tensor.parts {
            let source = sources.get(part.file).with_context(|| format!("there is no file {}", part.file))?;
            found = rows.add(part, &source.tensor(&part.tensor)?, found)?;
        }
        ensure!(found == count, "it needs {count} rows, but its sources have {found}");
        Ok(rows)
    }

    /// Adds a part's rows after the first `found` rows; returns the new number of rows.
    fn add(&mut self, part: &'a TensorPart, source: &StoredTensor<'a>, mut found: usize) -> Result<usize> {
        let matrix = Matrix::of(source, part.transpose).with_context(|| part.tensor.clone())?;
        let inside = |ranges: &[IndexRange], size: usize| {
            ranges.iter().all(|(first, count)| *count > 0 && first.checked_add(*count).is_some_and(|end| end <= size))
        };
        let every_row = vec![(0, matrix.rows)];
        let every_column = vec![(0, matrix.columns)];
        let (rows, columns) = (part.rows.as_ref().unwrap_or(&every_row), part.columns.as_ref().unwrap_or(&every_column));
        if !inside(rows, matrix.rows) || !inside(columns, matrix.columns) {
            bail!("{} of shape {:?} does not have all requested rows and columns", part.tensor, source.shape);
        }
        let width: usize = columns.iter().map(|(_, count)| count).sum();
        ensure!(width == self.columns, "{} of shape {:?} gives rows of {width} elements, not {}", part.tensor, source.shape, self.columns);

        let whole = part.columns.is_none() && !part.transpose && self.tensor.add.is_none();
        for (first, count) in rows.iter().copied() {
            let from = if whole {
                let row = matrix.columns * matrix.stored.bytes();
                RowSource::Contiguous(matrix.stored, &matrix.data[first * row..(first + count) * row])
            } else {
                RowSource::Gathered { matrix, row: first, columns: columns.clone() }
            };
            self.runs.push(Run { first: found, count, from });
            found = found.checked_add(count).context("it has too many rows")?;
        }
        Ok(found)
    }

    /// Bytes of the whole tensor in the file.
    pub fn bytes(&self) -> usize {
        self.count * self.row_bytes
    }

    /// Writes the bytes of the rows from `first` on, as many as fit into `out`. Returns whether all numbers are finite.
    pub fn write(&self, mut first: usize, mut out: &mut [u8]) -> bool {
        let mut finite = true;
        let mut picked = Vec::new();
        let at = self.runs.partition_point(|run| run.first + run.count <= first);
        for run in &self.runs[at..] {
            if out.is_empty() {
                break;
            }
            let skipped = first - run.first;
            let count = (run.count - skipped).min(out.len() / self.row_bytes);
            let (now, rest) = out.split_at_mut(count * self.row_bytes);
            match &run.from {
                RowSource::Contiguous(stored, data) if self.half || is_searched(self.tensor.format) => {
                    let row = self.columns * stored.bytes();
                    let at_once = (NUMBERS_AT_ONCE / self.columns).max(1);
                    let data = &data[skipped * row..(skipped + count) * row];
                    let pieces = data.chunks(at_once * row).zip(now.chunks_mut(at_once * self.row_bytes));
                    for (index, (data, out)) in pieces.enumerate() {
                        picked.resize(data.len() / stored.bytes(), 0.0);
                        decode(*stored, data, &mut picked);
                        finite &= self.encode(first + index * at_once, &mut picked, out);
                    }
                }
                RowSource::Contiguous(stored, data) => {
                    let row = self.columns * stored.bytes();
                    encode(*stored, &data[skipped * row..(skipped + count) * row], self.tensor.format, now);
                    finite &= all_finite(self.tensor.format, now);
                }
                RowSource::Gathered { matrix, row, columns } => {
                    for (index, out) in now.chunks_exact_mut(self.row_bytes).enumerate() {
                        picked.clear();
                        matrix.pick(row + skipped + index, columns, &mut picked);
                        finite &= self.finish(matrix.stored, first + index, &mut picked, out);
                    }
                }
                RowSource::Values(numbers) => {
                    let mut numbers = numbers[skipped * self.columns..(skipped + count) * self.columns].to_vec();
                    finite &= self.encode(first, &mut numbers, now);
                }
            }
            (first, out) = (first + count, rest);
        }
        finite
    }

    /// Encodes rows from the row `first` on. Returns whether all numbers are finite.
    fn encode(&self, mut first: usize, numbers: &mut [f32], mut out: &mut [u8]) -> bool {
        let format = self.tensor.format;
        if self.half {
            round_to_half(numbers);
        }
        if is_searched(format) && !numbers.iter().fold(true, |finite, number| finite & number.is_finite()) {
            return false;
        }
        let mut rest = &*numbers;
        while !rest.is_empty() {
            // Each expert has an importance of its own.
            let expert = first / self.rows_of_expert();
            let count = ((expert + 1) * self.rows_of_expert() - first).min(rest.len() / self.columns);
            let importance = self.importance.map(|importance| &importance[expert * self.columns..(expert + 1) * self.columns]);
            let (numbers, after) = rest.split_at(count * self.columns);
            let (now, later) = out.split_at_mut(count * self.row_bytes);
            encode_rows(format, Rows { numbers, columns: self.columns, importance }, Form::fastest(), now);
            if !all_finite(format, now) {
                return false;
            }
            (first, rest, out) = (first + count, after, later);
        }
        true
    }

    fn finish(&self, stored: StoredType, row: usize, numbers: &mut [f32], out: &mut [u8]) -> bool {
        if let Some(add) = self.tensor.add {
            // llama.cpp's converter adds in float16 if the tensor is stored in float16, otherwise in float32.
            let round = |sum: f32| if stored == StoredType::F16 { half::f16::from_f32(sum).to_f32() } else { sum };
            for number in numbers.iter_mut() {
                *number = round(*number + add);
            }
        }
        self.encode(row, numbers, out)
    }
}

impl<'a> Matrix<'a> {
    fn of(source: &StoredTensor<'a>, transposed: bool) -> Result<Matrix<'a>> {
        let columns = source.shape.last().copied().unwrap_or(1);
        // The data have the length that the shape says, so the product of all dimensions does not overflow.
        let rows = source.shape.iter().rev().skip(1).product();
        ensure!(!transposed || source.shape.len() == 2, "shape {:?} is not a matrix, so it cannot be transposed", source.shape);
        let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
        Ok(Matrix { stored: source.stored, data: source.data, rows, columns, transposed })
    }

    /// Appends the chosen columns of a row.
    fn pick(&self, row: usize, columns: &[IndexRange], numbers: &mut Vec<f32>) {
        let size = self.stored.bytes();
        for (first, count) in columns.iter().copied() {
            let start = numbers.len();
            numbers.resize(start + count, 0.0);
            let numbers = &mut numbers[start..];
            if self.transposed {
                for (index, number) in numbers.iter_mut().enumerate() {
                    let at = ((first + index) * self.rows + row) * size;
                    decode(self.stored, &self.data[at..at + size], std::slice::from_mut(number));
                }
            } else {
                let at = (row * self.columns + first) * size;
                decode(self.stored, &self.data[at..at + count * size], numbers);
            }
        }
    }
}

impl PlannedTensor {
    /// The stored tensors of this tensor: index of the file, and name.
    pub fn sources(&self) -> impl Iterator<Item = (usize, &str)> {
        self.parts.iter().map(|part| (part.file, part.tensor.as_str()))
    }
}
