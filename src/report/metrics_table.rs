//! The numbers of metrics.jsonl as a table: a row for each logged step, a column for each number.

use std::sync::Arc;

use anyhow::Result;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};

use crate::report::curves::Curves;

/// A row for each step that has a number; numbers that a row has not are null.
pub(crate) fn metrics_table(steps: &[(String, Curves)]) -> Result<RecordBatch> {
    let mut columns: Vec<(&str, Vec<Option<f64>>)> = Vec::new();
    let (mut names, mut at): (Vec<&str>, Vec<i64>) = (Vec::new(), Vec::new());
    for (name, curves) in steps {
        let mut all: Vec<f64> = curves.all.iter().flat_map(|curve| &curve.points).map(|(step, _)| *step).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        let first = names.len();
        names.extend(std::iter::repeat_n(name.as_str(), all.len()));
        at.extend(all.iter().map(|step| *step as i64));
        for curve in &curves.all {
            let place = columns.iter().position(|(known, _)| *known == curve.name).unwrap_or_else(|| {
                columns.push((&curve.name, Vec::new()));
                columns.len() - 1
            });
            let column = &mut columns[place].1;
            column.resize(names.len(), None);
            for (step, value) in &curve.points {
                if let Ok(row) = all.binary_search_by(|other| other.total_cmp(step)) {
                    column[first + row] = Some(*value);
                }
            }
        }
    }
    let count = names.len();
    let mut arrays: Vec<(String, ArrayRef)> =
        vec![("name".into(), Arc::new(StringArray::from(names))), ("step".into(), Arc::new(Int64Array::from(at)))];
    for (name, mut column) in columns {
        column.resize(count, None);
        // A script may have a number of that name.
        let name = if ["name", "step"].contains(&name) { format!("{name}_value") } else { name.to_string() };
        arrays.push((name, Arc::new(Float64Array::from(column))));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(arrays.into_iter().map(|(name, array)| (name, array, true)))?)
}
