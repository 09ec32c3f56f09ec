//! The metrics of a session in the files of other programs: CSV, Parquet, TensorBoard.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use arrow_array::{Array, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use crate::base::{error, files};
use crate::report::metrics_table::metrics_table;
use crate::report::recorded::metrics_of;
use crate::report::tensorboard::{EventStep, event_file};
use crate::session::session_state;

/// What metrics are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    Tensorboard,
    Csv,
    Parquet,
}

/// Writes the metrics of a session's steps, or of one step. `out`: a file (TensorBoard: a folder, which gets a folder for each step), by default
/// `<session>.csv`, `<session>.parquet` or `<session>.tensorboard` in the working directory. Returns the files.
///
/// # Errors
/// Kind `usage` if there is no such session or step, it has no metrics, or a file exists; `io`.
pub(crate) fn export_metrics(
    runs: &Path,
    session: &str,
    step: Option<&str>,
    format: MetricsFormat,
    out: Option<&Path>,
) -> Result<Vec<PathBuf>> {
    let steps = metrics_of(runs, session, step)?;
    let end = match format {
        MetricsFormat::Tensorboard => "tensorboard",
        MetricsFormat::Csv => "csv",
        MetricsFormat::Parquet => "parquet",
    };
    let out = out.map_or_else(|| PathBuf::from(format!("{session}.{end}")), Path::to_path_buf);
    if out.exists() {
        return Err(error::usage(format!("{} exists; remove it, or give --out another name", out.display())));
    }
    let write =
        |path: &Path, bytes: &[u8]| files::write_whole(path, bytes).with_context(|| format!("{} cannot be written", path.display()));
    match format {
        MetricsFormat::Csv => write(&out, &csv_text(&metrics_table(&steps)?)?)?,
        MetricsFormat::Parquet => write(&out, &parquet_bytes(&metrics_table(&steps)?)?)?,
        MetricsFormat::Tensorboard => {
            let state = session_state(runs, session)?;
            let mut written = Vec::new();
            for (name, curves) in &steps {
                let about = state.steps.iter().find(|one| one.step == *name);
                let started = about.map(|one| one.started_at.as_str()).unwrap_or_default();
                let seconds = about.and_then(|one| one.duration_s).unwrap_or_default();
                let (file, bytes) = event_file(&EventStep { curves, started, seconds });
                let folder = out.join(name);
                files::create_folders(&folder)?;
                write(&folder.join(&file), &bytes)?;
                written.push(folder.join(file));
            }
            return Ok(written);
        }
    }
    Ok(vec![out])
}

/// The table as CSV (RFC 4180), with the names in the first line; what a row has not is empty.
fn csv_text(table: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(table.schema().fields().iter().map(|field| field.name()))?;
    for row in 0..table.num_rows() {
        let cells = table.columns().iter().map(|column| {
            let any = column.as_any();
            if column.is_null(row) {
                String::new()
            } else if let Some(texts) = any.downcast_ref::<StringArray>() {
                texts.value(row).to_string()
            } else if let Some(numbers) = any.downcast_ref::<Int64Array>() {
                numbers.value(row).to_string()
            } else {
                any.downcast_ref::<Float64Array>().map(|numbers| numbers.value(row).to_string()).unwrap_or_default()
            }
        });
        writer.write_record(cells)?;
    }
    Ok(writer.into_inner()?)
}

fn parquet_bytes(table: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, table.schema(), None)?;
    writer.write(table)?;
    writer.close()?;
    Ok(bytes)
}
