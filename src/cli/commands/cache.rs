//! `cache`: shows the cache of prepared data, or clears it.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::base::cache::{CacheContent, clear_cache, list_cache};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::bytes;

/// Show or clear the cache: prepared rows, converted data sets, parsed tokenizers, the built-in model
#[derive(Args, Debug)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    action: CacheAction,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum CacheAction {
    /// List the entries, with the one used longest ago first
    List,
    /// Remove all entries that no process uses
    Clear,
}

impl CacheArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<u8> {
        let content = match self.action {
            CacheAction::List => list_cache()?,
            CacheAction::Clear => {
                let before = list_cache()?;
                let after = clear_cache()?;
                if !global.json {
                    let count = before.entries.len().saturating_sub(after.entries.len());
                    let freed = bytes(before.bytes.saturating_sub(after.bytes));
                    let entries = if count == 1 { "entry" } else { "entries" };
                    output::line(&format!("removed {count} {entries} ({freed}) from {}", after.folder.display()));
                    if after.entries.is_empty() {
                        return Ok(0);
                    }
                }
                after
            }
        };
        if global.json {
            output::json(&json!(content));
        } else {
            print(&content);
        }
        Ok(0)
    }
}

fn print(content: &CacheContent) {
    if !content.entries.is_empty() {
        let mut rows = vec![["entry", "content", "size", "last used", "in use"].map(String::from)];
        rows.extend(content.entries.iter().map(|entry| {
            let in_use = if entry.in_use { "yes" } else { "" };
            [entry.name.clone(), entry.kind.clone(), bytes(entry.bytes), entry.used_at[..19].replace('T', " "), in_use.to_string()]
        }));
        table(&rows, Some(0));
    }
    output::line(&format!("{} of {} in {}", bytes(content.bytes), bytes(content.max_bytes), content.folder.display()));
}
