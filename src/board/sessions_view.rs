//! The list of sessions: a row for each, and what all of them are together.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;

use crate::base::numbers::{bytes, counted, duration, grouped, seconds, significant};
use crate::board::list_query::{ListQuery, PAGE, STATES, SortKey, last_loss, total_seconds};
use crate::board::pages::render;
use crate::report::Part;
use crate::session::{SessionState, StepProgress};

/// The parts of the list: what it is, its heads, a part for each session, the way to further pages.
pub(crate) fn sessions_parts(sessions: &[Arc<SessionState>], query: &ListQuery, runs: &Path, root: &str) -> Result<Vec<Part>> {
    let mut shown: Vec<&SessionState> = sessions.iter().map(Arc::as_ref).filter(|session| query.shows(session)).collect();
    shown.sort_by(|a, b| query.order(a, b));
    let pages = shown.len().div_ceil(PAGE).max(1);
    let page = query.page.min(pages - 1);
    let link = |page: usize| format!("{root}/?{}", ListQuery { page, ..query.clone() }.text());
    let columns: Vec<_> = SortKey::ALL
        .iter()
        .map(|(key, name)| {
            let is_sorted = *key == query.sort;
            // Numbers and times begin with the greatest.
            let first = !matches!(key, SortKey::Session | SortKey::State | SortKey::Step);
            let is_descending = if is_sorted { !query.is_descending } else { first };
            json!({
                "name": name,
                "link": format!("{root}/?{}", ListQuery { sort: *key, is_descending, page: 0, ..query.clone() }.text()),
                "sorted": if !is_sorted { None } else if query.is_descending { Some("descending") } else { Some("ascending") },
                "is_number": matches!(key, SortKey::Loss | SortKey::Time | SortKey::Size),
            })
        })
        .collect();
    let of_state = |state: &str| sessions.iter().filter(|one| one.state == state).count() as u64;
    let total: u64 = shown.iter().map(|one| one.size_bytes).sum();
    let head = json!({
        "columns": columns,
        "count": counted(shown.len() as u64, "session"),
        "all": (shown.len() < sessions.len()).then(|| grouped(sessions.len() as u64)),
        "states": STATES.map(|state| json!({"state": state, "count": grouped(of_state(state))})),
        "size": bytes(total),
        "free": free_bytes(runs).map(bytes),
        "page": page + 1,
        "pages": pages,
        "earlier": (page > 0).then(|| link(page - 1)),
        "later": (page + 1 < pages).then(|| link(page + 1)),
    });
    let mut parts = vec![Part { id: "part-head".into(), html: render("sessions_head.html", &head)? }];
    for session in shown.into_iter().skip(page * PAGE).take(PAGE) {
        parts.push(Part { id: format!("row-{}", session.session), html: row(session, runs, root)? });
    }
    Ok(parts)
}

fn row(session: &SessionState, runs: &Path, root: &str) -> Result<String> {
    let last = session.steps.last();
    let is_running = session.state == "running";
    let progress = last.filter(|_| is_running).and_then(|step| StepProgress::of_running(&runs.join(&session.session), &step.step));
    let eta = progress.as_ref().and_then(|progress| progress.eta_seconds);
    let percent = progress.as_ref().and_then(|progress| progress.fraction).map(|fraction| (fraction * 100.0).floor() as u64);
    let state = ["success", "failure", "running", "interrupted"].into_iter().find(|known| *known == session.state).unwrap_or("waiting");
    // Why the session is in its state: the error of the last step in the same one.
    let error = session.steps.iter().rev().find(|step| step.state == session.state).and_then(|step| Some((step, step.error.as_ref()?)));
    let values = json!({
        "root": root,
        "session": session.session,
        "state": state,
        "word": session.state,
        "step": last.map(|step| &step.step),
        "task": last.map(|step| &step.task).filter(|task| last.is_some_and(|step| step.step != **task)),
        "model": session.steps.iter().find_map(|step| step.model.as_ref()),
        "steps": (session.steps.len() > 1).then(|| counted(session.steps.len() as u64, "step")),
        "error": error.map(|(step, text)| if last.is_some_and(|last| last.step == step.step) { text.clone() } else { format!("{}: {text}", step.step) }),
        "percent": percent,
        "progress": progress.as_ref().map(|one| match one.steps {
            Some(all) => format!("step {} of {}", grouped(one.step), grouped(all)),
            None => format!("step {}", grouped(one.step)),
        }),
        "rate": progress.as_ref().and_then(|one| one.tokens_per_second).map(|rate| format!("{} tokens/s", grouped(rate.round() as u64))),
        "eta": eta.map(duration),
        "loss": last_loss(session).map(significant),
        // Of what runs it changes with every look, and so is shown as the remaining time.
        "time": (!is_running).then(|| seconds(total_seconds(session))),
        "created": session.created.get(..16).and_then(|time| time.split_once('T')).map(|(day, time)| json!({"day": day, "time": time})),
        "size": bytes(session.size_bytes),
    });
    render("sessions_row.html", &values)
}

/// Bytes that are free where the sessions are.
fn free_bytes(runs: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(runs.as_os_str().as_encoded_bytes()).ok()?;
    let mut about = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero, and the memory is ours; it is read only if the call has filled it.
    let about = unsafe {
        if libc::statvfs(path.as_ptr(), about.as_mut_ptr()) != 0 {
            return None;
        }
        about.assume_init()
    };
    Some(about.f_bavail as u64 * about.f_frsize as u64)
}
