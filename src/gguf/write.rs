//! A plan carried out: batches of rows are converted on all cores while the batch before is written.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;

use crate::base::error;
use crate::base::files::Replacement;
use crate::gguf::encode::all_finite;
use crate::gguf::header::{ALIGNMENT, header};
use crate::gguf::plan::{Plan, Tensor};
use crate::gguf::rows::Rows;
use crate::gguf::source::Source;
use crate::gguf::types::Format;

/// Bytes of the file made at a time: large enough for a disk, small against a model.
const BATCH: usize = 16 << 20;
/// Bytes that one core makes at a time.
const PIECE: usize = 256 << 10;
/// Batches in memory: one being made, one waiting, one being written.
const BUFFERS: usize = 3;

/// Writes the GGUF file that the plan at `plan` describes; returns the file's size in bytes.
///
/// `progress` is told the bytes made, the bytes of all tensors, and the name of the tensor at hand; an error that it returns
/// stops the work and is returned. The file appears under its name only when it is whole and on disk; whatever goes wrong, a
/// file that stood there before is as it was, and nothing is left beside it.
///
/// # Errors
/// Of kind `model` where a source lacks a tensor or is damaged, `io` where a file cannot be read or written.
pub fn write(plan: &Path, progress: &mut dyn FnMut(u64, u64, &str) -> Result<()>) -> Result<u64> {
    let plan = Plan::read(plan)?;
    let sources = plan.files.iter().map(|file| Source::open(file)).collect::<Result<Vec<_>>>()?;
    let tensors = plan.tensors.iter().map(|tensor| Rows::bind(tensor, &sources)).collect::<Result<Vec<_>>>()?;
    let header = header(&plan, &tensors)?;

    let cannot = || format!("{} cannot be written", plan.target.display());
    let mut file = Replacement::create(&plan.target).with_context(cannot)?;
    file.write_all(&header).with_context(cannot)?;
    let to_file = &mut file;
    let bytes = thread::scope(|scope| {
        let (full, to_write) = sync_channel::<Vec<u8>>(1);
        let (written, empty) = channel();
        (0..BUFFERS).try_for_each(|_| written.send(Vec::new())).map_err(|_| anyhow!("no buffers"))?;
        let writer = scope.spawn(move || write_batches(to_file, &to_write, &written));
        let made = make_batches(&tensors, &sources, &full, &empty, progress);
        drop(full);
        let wrote = writer.join().map_err(|_| anyhow!("the writing thread panicked"))?;
        // Where writing failed, making stopped because of that.
        wrote.with_context(cannot)?;
        made
    })?;
    file.publish().with_context(cannot)?;
    Ok(header.len() as u64 + bytes)
}

/// Rows of one tensor at one place of a batch.
struct Piece<'a> {
    rows: &'a Rows<'a>,
    first: usize,
    bytes: usize,
    /// Zeros after them, where a tensor ends.
    padding: usize,
}

/// Makes all batches in order; returns the bytes of all of them.
fn make_batches(
    tensors: &[Rows<'_>],
    sources: &[Source],
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
    progress: &mut dyn FnMut(u64, u64, &str) -> Result<()>,
) -> Result<u64> {
    let total = tensors.iter().map(|rows| rows.bytes().next_multiple_of(ALIGNMENT) as u64).sum();
    let mut done = 0;
    let mut batch = Vec::new();
    let mut size = 0;
    progress(done, total, tensors.first().map_or("", |rows| &rows.tensor.name))?;
    let mut pieces = tensors.iter().flat_map(pieces).peekable();
    while let Some(piece) = pieces.next() {
        size += piece.bytes + piece.padding;
        batch.push(piece);
        if size < BATCH && pieces.peek().is_some() {
            continue;
        }
        let Ok(mut buffer) = empty.recv() else { break };
        make(&batch, size, &mut buffer)?;
        if full.send(buffer).is_err() {
            break; // the writer gave up, and says why
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

/// Cuts a tensor into pieces of whole rows.
fn pieces<'a>(rows: &'a Rows<'a>) -> impl Iterator<Item = Piece<'a>> {
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
    places.into_par_iter().try_for_each(|(piece, place)| {
        let (out, padding) = place.split_at_mut(piece.bytes);
        piece.rows.write(piece.first, out);
        padding.fill(0);
        let tensor = piece.rows.tensor;
        if all_finite(tensor.format, out) { Ok(()) } else { Err(not_finite(tensor)) }
    })
}

fn not_finite(tensor: &Tensor) -> anyhow::Error {
    let cause = match tensor.format {
        Format::F16 | Format::Q8_0 => "or too large for f16 (beyond 65504); outtype bf16 holds large ones",
        Format::BF16 | Format::F32 => "as after a training that diverged",
    };
    error::model(format!("tensor {} has numbers that are infinite or no numbers, {cause}", tensor.name))
}

/// Writes what comes, in order, and hands the buffers back.
fn write_batches(file: &mut Replacement<'_>, to_write: &Receiver<Vec<u8>>, written: &Sender<Vec<u8>>) -> std::io::Result<()> {
    for buffer in to_write {
        file.write_all(&buffer)?;
        // Nobody takes the last ones.
        let _ = written.send(buffer);
    }
    Ok(())
}
