//! The prefixes of module names in different classes of one model (Unsloth trains on another class). The canonical names are those of the text model: `model.layers.0…`.

/// A prefix that some class has where the text model has `model.`, and the prefix of its output matrix. Multimodal checkpoints and the classes
/// `…ForConditionalGeneration` have the first three, a model without its output matrix the fourth.
const PREFIXES: [(&str, &str); 6] = [
    ("model.language_model.", ""),
    ("language_model.model.", "language_model."),
    ("language_model.", ""),
    ("", ""),
    ("model.model.", "model."),
    ("transformer.", ""),
];

/// How an adapter names the modules of its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameForm {
    /// The adapter's prefix of the blocks and the embedding.
    prefix: &'static str,
    /// The adapter's prefix of the output matrix.
    head: &'static str,
    /// What the base has instead of `prefix`.
    root: &'static str,
}

const HEADS: [&str; 3] = ["lm_head", "embed_out", "score"];

impl NameForm {
    /// The names of the base itself.
    pub const CANONICAL: NameForm = NameForm { prefix: "", head: "", root: "" };

    /// All forms for a base whose blocks have the prefix `root`, the canonical one first.
    pub fn all(root: &'static str) -> impl Iterator<Item = NameForm> {
        let others = PREFIXES.iter().filter(move |(prefix, _)| *prefix != root).map(move |&(prefix, head)| NameForm { prefix, head, root });
        std::iter::once(NameForm::CANONICAL).chain(others)
    }

    /// The canonical name of a module, if the name has this form.
    pub fn canonical(self, module: &str) -> Option<String> {
        if let Some(head) = module.strip_prefix(self.head).filter(|rest| HEADS.contains(rest)) {
            return Some(head.to_string());
        }
        module.strip_prefix(self.prefix).map(|rest| format!("{}{rest}", self.root))
    }

    /// The name in this form of a module with a canonical name.
    pub fn original(self, canonical: &str) -> String {
        if HEADS.contains(&canonical) {
            return format!("{}{canonical}", self.head);
        }
        match canonical.strip_prefix(self.root) {
            Some(rest) => format!("{}{rest}", self.prefix),
            None => canonical.to_string(),
        }
    }

    /// What a message says of the form.
    pub fn describe(self) -> String {
        match self.prefix {
            "" => format!("without the prefix {}", self.root),
            prefix => format!("with the prefix {prefix} instead of {}", if self.root.is_empty() { "none" } else { self.root }),
        }
    }
}

/// A tensor's or module's name in the text model. Names of other parts (`visual.`) are returned unchanged.
pub(super) fn text_name(name: &str) -> String {
    for (prefix, text) in [("model.language_model.", "model."), ("language_model.model.", "model."), ("language_model.lm_head", "lm_head")]
    {
        if let Some(rest) = name.strip_prefix(prefix) {
            return format!("{text}{rest}");
        }
    }
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_lead_there_and_back() {
        let conditional = NameForm::all("model.").find(|form| form.prefix == "model.language_model.").unwrap();
        assert_eq!(conditional.canonical("model.language_model.layers.0.mlp.up_proj").unwrap(), "model.layers.0.mlp.up_proj");
        assert_eq!(conditional.canonical("lm_head").unwrap(), "lm_head");
        assert_eq!(conditional.canonical("model.visual.blocks.0.attn.qkv"), None);
        for form in NameForm::all("model.") {
            for name in ["model.layers.3.self_attn.q_proj", "model.embed_tokens", "lm_head"] {
                assert_eq!(form.canonical(&form.original(name)).as_deref(), Some(name), "{form:?}");
            }
        }
    }

    #[test]
    fn checkpoints_of_multimodal_models_have_text_names() {
        assert_eq!(text_name("model.language_model.embed_tokens.weight"), "model.embed_tokens.weight");
        assert_eq!(text_name("language_model.model.layers.0.mlp.up_proj.weight"), "model.layers.0.mlp.up_proj.weight");
        assert_eq!(text_name("language_model.lm_head.weight"), "lm_head.weight");
        assert_eq!(text_name("model.visual.patch_embed.proj.weight"), "model.visual.patch_embed.proj.weight");
    }
}
