//! Executes a plan: batches of rows are converted on all cores while the previous batch is written.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::base::files::Replacement;
use crate::base::{error, threads};
use crate::gguf::header::{ALIGNMENT, header};
use crate::gguf::imatrix::ImportanceMatrix;
use crate::gguf::plan::{GgufPlan, PlannedTensor};
use crate::gguf::rows::TensorRows;
use crate::gguf::safetensors_file::SafetensorsFile;
use crate::gguf::types::Format;

/// Bytes of a batch: large enough for efficient writes, small compared to a model.
const BATCH: usize = 16 << 20;
/// Bytes that one core converts at a time.
const PIECE: usize = 256 << 10;
/// Batches in memory: one being converted, one waiting, one being written.
const BUFFERS: usize = 3;

/// Writes the GGUF file that the plan at `plan` describes; returns the file's size in bytes.
///
/// `progress` gets the bytes converted, the bytes of all tensors, and the name of the current tensor; if it returns an error,
/// writing stops and the error is returned. The file appears under its name only when it is complete and on disk. On any error
/// an existing file stays unchanged, and no temporary file is left.
///
/// # Errors
/// Kind `model`: a tensor is missing, a safetensors file is damaged, or numbers are not finite. Kind `io`: a file cannot be read or
/// written.
pub fn write(plan: &Path, progress: &mut dyn FnMut(u64, u64, &str) -> Result<()>) -> Result<u64> {
    let plan = GgufPlan::read(plan)?;
    let sources = plan.files.iter().map(|file| SafetensorsFile::open(file)).collect::<Result<Vec<_>>>()?;
    let imatrix = plan.imatrix.as_deref().map(ImportanceMatrix::read).transpose()?;
    let bind = |tensor| TensorRows::bind(tensor, &sources, plan.half, imatrix.as_ref());
    let tensors = plan.tensors.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let header = header(&plan, &tensors)?;

    let cannot = || format!("{} cannot be written", plan.target.display());
    let mut file = Replacement::create(&plan.target).with_context(cannot)?;
    file.write_all(&header).with_context(cannot)?;
    let output = Mutex::new(&mut file);
    let write = &|buffer: &[u8]| output.lock().unwrap_or_else(PoisonError::into_inner).write_all(buffer);
    let bytes = thread::scope(|scope| {
        let (full, to_write) = sync_channel::<Vec<u8>>(1);
        let (written, empty) = channel();
        // One more is with `make_batches`.
        (1..BUFFERS).try_for_each(|_| written.send(Vec::new())).map_err(|_| anyhow!("no buffers"))?;
        let (made, wrote) = match threads::spawn_scoped(scope, move || write_batches(write, &to_write, &written)) {
            Ok(writer) => {
                let mut submit = |buffer| full.send(buffer).ok().and_then(|()| empty.recv().ok());
                let made = make_batches(&tensors, &sources, &mut submit, progress);
                drop(full);
                (made, writer.join().map_err(|_| anyhow!("the writing thread panicked"))?)
            }
            // Without a thread, each batch is written before the next one is made.
            Err(_) => {
                let mut wrote = Ok(());
                let mut submit = |buffer: Vec<u8>| {
                    wrote = write(&buffer);
                    wrote.is_ok().then_some(buffer)
                };
                (make_batches(&tensors, &sources, &mut submit, progress), wrote)
            }
        };
        // If writing failed, converting stopped because of it: report the cause.
        wrote.with_context(cannot)?;
        made
    })?;
    file.publish().with_context(cannot)?;
    Ok(header.len() as u64 + bytes)
}

/// Consecutive rows of one tensor in a batch.
struct Piece<'a> {
    rows: &'a TensorRows<'a>,
    first: usize,
    bytes: usize,
    /// Zeros after the last row of a tensor.
    padding: usize,
}

/// Converts all batches in order; returns their total bytes. `submit` has a batch written and gives a buffer for another one, or `None` if
/// writing failed.
fn make_batches(
    tensors: &[TensorRows<'_>],
    sources: &[SafetensorsFile],
    submit: &mut dyn FnMut(Vec<u8>) -> Option<Vec<u8>>,
    progress: &mut dyn FnMut(u64, u64, &str) -> Result<()>,
) -> Result<u64> {
    let total = tensors.iter().map(|rows| rows.bytes().next_multiple_of(ALIGNMENT) as u64).sum();
    let mut done = 0;
    let mut batch = Vec::new();
    let mut size = 0;
    let mut buffer = Vec::new();
    progress(done, total, tensors.first().map_or("", |rows| &rows.tensor.name))?;
    let mut pieces = tensors.iter().flat_map(pieces).peekable();
    while let Some(piece) = pieces.next() {
        size += piece.bytes + piece.padding;
        batch.push(piece);
        if size < BATCH && pieces.peek().is_some() {
            continue;
        }
        make(&batch, size, &mut buffer)?;
        match submit(buffer) {
            Some(other) => buffer = other,
            None => break,
        }
        done += size as u64;
        progress(done, total, batch.last().map_or("", |piece| &piece.rows.tensor.name))?;
        for piece in batch.drain(..).filter(|piece| piece.first + piece.bytes / piece.rows.row_bytes == piece.rows.count) {
            piece.rows.tensor.sources().for_each(|(file, tensor)| sources[file].release(tensor));
        }
        size = 0;
    }
    Ok(total)
}

/// Splits a tensor into pieces of whole rows.
fn pieces<'a>(rows: &'a TensorRows<'a>) -> impl Iterator<Item = Piece<'a>> {
    let at_once = (PIECE / rows.row_bytes).max(1);
    (0..rows.count).step_by(at_once).map(move |first| {
        let count = at_once.min(rows.count - first);
        let padding = if first + count == rows.count { rows.bytes().next_multiple_of(ALIGNMENT) - rows.bytes() } else { 0 };
        Piece { rows, first, bytes: count * rows.row_bytes, padding }
    })
}

fn make(batch: &[Piece<'_>], size: usize, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.resize(size, 0);
    let mut rest = buffer.as_mut_slice();
    let mut places = Vec::with_capacity(batch.len());
    for piece in batch {
        let (place, after) = rest.split_at_mut(piece.bytes + piece.padding);
        rest = after;
        places.push((piece, place));
    }
    let made = threads::map(places, threads::available(), |(piece, place)| {
        let (out, padding) = place.split_at_mut(piece.bytes);
        padding.fill(0);
        if piece.rows.write(piece.first, out) { Ok(()) } else { Err(not_finite(piece.rows.tensor)) }
    });
    made.into_iter().collect()
}

fn not_finite(tensor: &PlannedTensor) -> anyhow::Error {
    let cause = match tensor.format {
        Format::BF16 | Format::F32 => "as after a diverged training",
        _ => "or values too large for f16 (above 65504); use outtype bf16 for those",
    };
    error::model(format!("tensor {} has infinite values or NaN, {cause}", tensor.name))
}

/// Writes the batches in order, and returns each buffer for reuse.
fn write_batches(
    write: &dyn Fn(&[u8]) -> std::io::Result<()>,
    to_write: &Receiver<Vec<u8>>,
    written: &Sender<Vec<u8>>,
) -> std::io::Result<()> {
    for buffer in to_write {
        write(&buffer)?;
        // The last buffers have no receiver.
        let _ = written.send(buffer);
    }
    Ok(())
}
