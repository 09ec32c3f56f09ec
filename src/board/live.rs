//! What open pages show, kept up to date for all of them together: each view is rendered once, however many pages show it, and only while
//! some page does. A page gets the parts that have changed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Notify, watch};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::clock::processor_time;
use crate::board::list_query::ListQuery;
use crate::board::session_view::{Fingerprint, LowestLevel, session_parts};
use crate::board::sessions_view::sessions_parts;
use crate::report::{CurveFiles, Part};
use crate::session::SessionIndex;

/// How often views are looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);
/// The pause after a look, as a multiple of the processor time that it took: at most half a percent of a core is spent on it, and with what sends
/// it to many pages less than one percent, so that a training on the same machine does not notice.
const PAUSE: u32 = 200;

/// What a page shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum View {
    Sessions(ListQuery),
    Session { name: String, level: LowestLevel },
}

/// A view as it was rendered last.
#[derive(Debug)]
pub(crate) struct Snapshot {
    parts: Vec<Part>,
    version: String,
    /// The version before it, and the message that leads from there to this.
    change: Option<(String, Arc<str>)>,
    whole: Arc<str>,
}

/// The version of some parts: equal if nothing has changed.
pub(crate) fn version(parts: &[Part]) -> String {
    let each = parts.iter().flat_map(|part| [part.id.as_bytes(), b"\0", part.html.as_bytes(), b"\0"]);
    format!("{:016x}", xxh3_64(&each.collect::<Vec<_>>().concat()))
}

impl Snapshot {
    fn new(parts: Vec<Part>, before: Option<&Snapshot>) -> Snapshot {
        let version = version(&parts);
        let ids = |parts: &[Part]| parts.iter().map(|part| part.id.clone()).collect::<Vec<_>>();
        let change = before.filter(|before| ids(&before.parts) == ids(&parts)).map(|before| {
            let changed = parts.iter().zip(&before.parts).filter(|(new, old)| new != old).map(|(new, _)| new);
            (before.version.clone(), message(&version, false, changed))
        });
        let whole = message(&version, true, parts.iter());
        Snapshot { parts, version, change, whole }
    }

    /// The message for a page that shows the version `shown`. `None` if it is this one.
    pub(crate) fn message_from(&self, shown: &str) -> Option<Arc<str>> {
        match &self.change {
            _ if shown == self.version => None,
            Some((before, change)) if before == shown => Some(Arc::clone(change)),
            _ => Some(Arc::clone(&self.whole)),
        }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

/// `{version, whole, parts: [[id, html], …]}`.
fn message<'a>(version: &str, whole: bool, parts: impl Iterator<Item = &'a Part>) -> Arc<str> {
    let parts: Vec<_> = parts.map(|part| json!([part.id, part.html])).collect();
    json!({"version": version, "whole": whole, "parts": parts}).to_string().into()
}

#[derive(Debug)]
struct Topic {
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    /// Of a session: what its files were when it was rendered.
    fingerprint: Option<Fingerprint>,
}

/// The views of all open pages.
#[derive(Debug)]
pub(crate) struct Live {
    /// Absolute.
    pub runs: PathBuf,
    /// What the paths of all pages begin with: `/TOKEN`.
    pub root: String,
    pub allow_control: bool,
    pub curves: CurveFiles,
    index: Mutex<SessionIndex>,
    topics: Mutex<HashMap<View, Topic>>,
    subscribed: Notify,
}

impl Live {
    pub(crate) fn new(runs: PathBuf, root: String, allow_control: bool) -> Live {
        Live {
            runs,
            root,
            allow_control,
            curves: CurveFiles::default(),
            index: Mutex::default(),
            topics: Mutex::default(),
            subscribed: Notify::new(),
        }
    }

    /// The parts of a view as they are now.
    ///
    /// # Errors
    /// Kind `usage` if there is no such session; `input`, `io` if it cannot be read.
    pub(crate) fn parts(&self, view: &View) -> anyhow::Result<Vec<Part>> {
        match view {
            View::Sessions(query) => {
                let sessions = self.index.lock().unwrap_or_else(PoisonError::into_inner).list(&self.runs)?;
                sessions_parts(&sessions, query, &self.runs, &self.root)
            }
            View::Session { name, level } => session_parts(&self.runs, name, *level, &self.root, self.allow_control, &self.curves),
        }
    }

    /// What a page that shows `view` listens to.
    pub(crate) fn subscribe(&self, view: &View) -> watch::Receiver<Option<Arc<Snapshot>>> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.entry(view.clone()).or_insert_with(|| Topic { sender: watch::Sender::new(None), fingerprint: None });
        let receiver = topic.sender.subscribe();
        drop(topics);
        self.subscribed.notify_one();
        receiver
    }

    fn has_listeners(&self) -> bool {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|_, topic| topic.sender.receiver_count() > 0);
        !topics.is_empty()
    }

    /// Renders the views that have changed.
    fn refresh(&self) {
        let views: Vec<(View, Option<Fingerprint>)> = {
            let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            topics.iter().map(|(view, topic)| (view.clone(), topic.fingerprint.clone())).collect()
        };
        for (view, before) in views {
            let fingerprint = match &view {
                View::Session { name, .. } => Some(Fingerprint::of(&self.runs, name)),
                View::Sessions(_) => None,
            };
            if fingerprint.is_some() && fingerprint == before {
                continue;
            }
            // A session that was removed meanwhile stays as it was shown last.
            let Ok(parts) = self.parts(&view) else { continue };
            let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(topic) = topics.get_mut(&view) else { continue };
            topic.fingerprint = fingerprint;
            topic.sender.send_if_modified(|snapshot| {
                if snapshot.as_ref().is_some_and(|before| before.parts == parts) {
                    return false;
                }
                *snapshot = Some(Arc::new(Snapshot::new(parts, snapshot.as_deref())));
                true
            });
        }
    }
}

/// Renders what open pages show, again and again.
pub(crate) async fn keep_up_to_date(live: Arc<Live>) {
    loop {
        while !live.has_listeners() {
            live.subscribed.notified().await;
        }
        let (started, taken) = (Instant::now(), processor_time());
        let refreshed = Arc::clone(&live);
        drop(tokio::task::spawn_blocking(move || refreshed.refresh()).await);
        // While other programs use all cores, a look waits more than it works. In a process that also trains, processor time is the training's too.
        let taken = started.elapsed().min(processor_time().saturating_sub(taken));
        tokio::time::sleep(PERIOD.max(taken * PAUSE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(texts: &[(&str, &str)]) -> Vec<Part> {
        texts.iter().map(|(id, html)| Part { id: (*id).into(), html: (*html).into() }).collect()
    }

    #[test]
    fn a_page_gets_what_has_changed_and_everything_if_it_has_missed_something() {
        let first = Snapshot::new(parts(&[("a", "1"), ("b", "2")]), None);
        let second = Snapshot::new(parts(&[("a", "1"), ("b", "3")]), Some(&first));
        let message = |snapshot: &Snapshot, shown: &str| -> serde_json::Value {
            serde_json::from_str(&snapshot.message_from(shown).unwrap()).unwrap()
        };
        assert_eq!(message(&second, first.version())["parts"], json!([["b", "3"]]));
        assert_eq!(message(&second, "another")["whole"], true);
        assert_eq!(message(&second, "another")["parts"], json!([["a", "1"], ["b", "3"]]));
        assert!(second.message_from(second.version()).is_none());
        let third = Snapshot::new(parts(&[("b", "3"), ("a", "1")]), Some(&second));
        assert_eq!(message(&third, second.version())["whole"], true, "another order is another page");
        assert_ne!(version(&parts(&[("a", "bc")])), version(&parts(&[("ab", "c")])));
    }
}
