//! Where the adapters of a session come from, as a tree: the base, below it the adapters trained on it, below each its continuations.

use serde_json::{Value, json};

use crate::report::html::cut;
use crate::report::recorded::RecordedSession;

/// Levels and adapters that are shown.
const MAX_DEPTH: usize = 9;
const MAX_NODES: usize = 100;
/// Characters of the names of a step's data.
const NAMES: usize = 300;

struct LineageNode {
    key: String,
    parent: String,
    name: String,
    detail: String,
}

/// The tree: nodes with those below them. Empty without adapters that have a lineage.json.
pub(crate) fn lineage(session: &RecordedSession) -> Vec<Value> {
    let mut all: Vec<LineageNode> = Vec::new();
    let mut roots: Vec<(String, String)> = Vec::new();
    for step in &session.steps {
        let Some(lineage) = &step.lineage else { continue };
        let text = |value: &Value| value.as_str().map(ToString::to_string);
        let key = text(&lineage["adapter"]["sha256"]).unwrap_or_else(|| step.state.step.clone());
        let base = text(&lineage["base"]["model"]).unwrap_or_else(|| "an unknown base".into());
        let root = (format!("base {base}"), format!("base model {}", session.own_name(&base)));
        let stages = lineage["stages"].as_array().map_or(&[][..], Vec::as_slice);
        let data = stages.last().map(|stage| names(&stage["dataset_path"])).unwrap_or_default();
        let parent = match (text(&lineage["parent"]["sha256"]), text(&lineage["parent"]["adapter"])) {
            (Some(hash), path) => {
                // The parent may be of another session.
                if !all.iter().any(|one| one.key == hash) {
                    let name = format!("adapter {}", path.unwrap_or_else(|| hash.clone()));
                    all.push(LineageNode { key: hash.clone(), parent: root.0.clone(), name, detail: "not of this session".into() });
                }
                hash
            }
            _ => root.0.clone(),
        };
        if !roots.iter().any(|(key, _)| *key == root.0) {
            roots.push(root);
        }
        if !all.iter().any(|one| one.key == key) {
            let detail = if data.is_empty() { String::new() } else { format!("stage {}: trained on {data}", stages.len()) };
            all.push(LineageNode { key, parent, name: format!("adapter of step {}", step.state.step), detail });
        }
    }
    let mut room = MAX_NODES;
    let tree = roots.iter().map(|(key, name)| json!({"name": name, "below": below(&all, key, 1, &mut room)}));
    tree.collect()
}

/// The nodes below one, of which there may be `room` more.
fn below(all: &[LineageNode], parent: &str, depth: usize, room: &mut usize) -> Vec<Value> {
    let mut nodes = Vec::new();
    for one in all.iter().filter(|one| one.parent == parent && depth <= MAX_DEPTH) {
        let Some(less) = room.checked_sub(1) else { break };
        *room = less;
        nodes.push(json!({"name": one.name, "detail": one.detail, "below": below(all, &one.key, depth + 1, room)}));
    }
    nodes
}

/// The paths in a value, each by its last part.
pub(crate) fn names(paths: &Value) -> String {
    let name = |path: &Value| {
        let path = path.as_str().or_else(|| path["path"].as_str());
        path.map_or_else(|| "?".to_string(), |path| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_string())
    };
    let names = match paths {
        Value::Null => String::new(),
        Value::Array(all) => all.iter().map(name).collect::<Vec<_>>().join(", "),
        one => name(one),
    };
    cut(&names, NAMES)
}
