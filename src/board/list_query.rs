//! What of the list of sessions is shown, and in which order: the query of its address.

use std::cmp::Ordering;

use form_urlencoded::{Serializer, parse};

use crate::session::SessionState;

/// Sessions on one page.
pub(crate) const PAGE: usize = 100;
/// Characters of a search that count.
const LONGEST: usize = 200;

/// A column to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SortKey {
    Session,
    State,
    Step,
    Loss,
    Time,
    Created,
    Size,
}

impl SortKey {
    pub(crate) const ALL: [(SortKey, &'static str); 7] = [
        (SortKey::Session, "session"),
        (SortKey::State, "state"),
        (SortKey::Step, "step"),
        (SortKey::Loss, "loss"),
        (SortKey::Time, "time"),
        (SortKey::Created, "created"),
        (SortKey::Size, "size"),
    ];

    fn name(self) -> &'static str {
        SortKey::ALL.iter().find(|(key, _)| *key == self).map_or("created", |(_, name)| name)
    }
}

/// The states that can be chosen.
pub(crate) const STATES: [&str; 6] = ["running", "success", "failure", "interrupted", "empty", "damaged"];

/// What is shown of the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListQuery {
    /// A part of the session's name, of a step's or of a model's. Case does not count.
    pub search: String,
    /// Empty: all.
    pub state: String,
    pub sort: SortKey,
    pub is_descending: bool,
    /// From 0.
    pub page: usize,
}

impl ListQuery {
    /// Reads a query. What is unknown in it is the default, so that an old bookmark shows something.
    pub(crate) fn of(query: &str) -> ListQuery {
        let value = |wanted: &str| parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
        let sort = value("sort").and_then(|name| SortKey::ALL.into_iter().find(|(_, known)| *known == name));
        ListQuery {
            search: value("q").unwrap_or_default().trim().chars().take(LONGEST).collect(),
            state: value("state").filter(|state| STATES.contains(&state.as_str())).unwrap_or_default(),
            sort: sort.map_or(SortKey::Created, |(key, _)| key),
            is_descending: value("order").is_none_or(|order| order != "asc"),
            page: value("page").and_then(|page| page.parse::<usize>().ok()).map_or(0, |page| page.saturating_sub(1).min(1_000_000)),
        }
    }

    /// The query of an address that shows this.
    pub(crate) fn text(&self) -> String {
        let mut text = Serializer::new(String::new());
        if !self.search.is_empty() {
            text.append_pair("q", &self.search);
        }
        if !self.state.is_empty() {
            text.append_pair("state", &self.state);
        }
        text.append_pair("sort", self.sort.name()).append_pair("order", if self.is_descending { "desc" } else { "asc" });
        if self.page > 0 {
            text.append_pair("page", &(self.page + 1).to_string());
        }
        text.finish()
    }

    /// Whether a session is among those that are shown.
    pub(crate) fn shows(&self, session: &SessionState) -> bool {
        let wanted = self.search.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        let is_found = wanted.is_empty()
            || has(&session.session)
            || session.steps.iter().any(|step| has(&step.step) || has(&step.task) || step.model.as_deref().is_some_and(has));
        (self.state.is_empty() || session.state == self.state) && is_found
    }

    /// The order of two sessions. Those without the value come last in either direction.
    pub(crate) fn order(&self, a: &SessionState, b: &SessionState) -> Ordering {
        let directed = |order: Ordering| if self.is_descending { order.reverse() } else { order };
        let text = |of: &dyn Fn(&SessionState) -> &str| directed(of(a).cmp(of(b)));
        let number = |of: &dyn Fn(&SessionState) -> Option<f64>| match (of(a), of(b)) {
            (Some(a), Some(b)) => directed(a.total_cmp(&b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        let order = match self.sort {
            SortKey::Session => text(&|one| &one.session),
            SortKey::State => text(&|one| &one.state),
            SortKey::Step => text(&|one| one.steps.last().map_or("", |step| &step.step)),
            SortKey::Loss => number(&last_loss),
            SortKey::Time => number(&|one| Some(total_seconds(one))),
            SortKey::Created => text(&|one| &one.created),
            SortKey::Size => number(&|one| Some(one.size_bytes as f64)),
        };
        order.then_with(|| a.session.cmp(&b.session))
    }
}

/// The last loss of a session's trainings.
pub(crate) fn last_loss(session: &SessionState) -> Option<f64> {
    session.steps.iter().rev().find_map(|step| step.loss)
}

/// Seconds of all steps of a session.
pub(crate) fn total_seconds(session: &SessionState) -> f64 {
    session.steps.iter().filter_map(|step| step.duration_s).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_its_own_text_and_what_is_unknown_is_the_default() {
        let query = ListQuery::of("q=a%26b+c&state=failure&sort=loss&order=asc&page=3");
        assert_eq!((query.search.as_str(), query.sort, query.is_descending, query.page), ("a&b c", SortKey::Loss, false, 2));
        assert_eq!(ListQuery::of(&query.text()), query);
        let query = ListQuery::of("state=<script>&sort=nothing&order=&page=-1&page=2");
        assert_eq!((query.state.as_str(), query.sort, query.is_descending, query.page), ("", SortKey::Created, true, 0));
    }

    #[test]
    fn sessions_are_found_by_name_step_and_model_and_ordered_by_any_column() {
        let session = |name: &str, loss: Option<f64>| -> SessionState {
            let step = serde_json::json!({"step": "tune", "task": "finetune_lora", "state": "success", "started_at": "", "finished_at": null,
                "duration_s": 1.0, "model": "Qwen/Qwen3", "loss": loss, "eta_seconds": null, "error": null});
            let state = serde_json::json!({"session": name, "created": name, "state": "success", "size_bytes": 1, "steps": [step]});
            serde_json::from_value(state).unwrap()
        };
        let all = [session("b", Some(2.0)), session("a", None), session("c", Some(1.0))];
        let names = |query: &str| {
            let query = ListQuery::of(query);
            let mut shown: Vec<&SessionState> = all.iter().filter(|one| query.shows(one)).collect();
            shown.sort_by(|a, b| query.order(a, b));
            shown.iter().map(|one| one.session.as_str()).collect::<String>()
        };
        for (query, wanted) in [
            ("", "cba"),
            ("sort=loss&order=asc", "cba"),
            ("sort=loss&order=desc", "bca"),
            ("q=qwen3&sort=session&order=asc", "abc"),
            ("q=B", "b"),
            ("q=none", ""),
            ("state=failure", ""),
        ] {
            assert_eq!(names(query), wanted, "{query}");
        }
    }
}
