//! What a tensor of an adapter is, by its name.

/// Parts of names that wrappers of torch leave in a saved model.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// What a tensor is to its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TensorRole {
    /// `[rank, in]`
    A,
    /// `[out, rank]`
    B,
    /// `[rank, tokens]`
    EmbeddingA,
    /// `[width, rank]`
    EmbeddingB,
    /// DoRA's magnitudes, `[out]`.
    Magnitude,
    /// The bias of B.
    BiasOfB,
    /// A parameter of the module itself. `original`: PEFT's copy of what the base had.
    Whole { parameter: String, original: bool },
    /// Part of another method; the rest of its name.
    Other(String),
}

/// A tensor's name in an adapter's file, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdapterTensorName {
    /// The module's path, without PEFT's prefix.
    pub module: String,
    pub role: TensorRole,
    /// The adapter's own name, if it is part of the tensor's name.
    pub adapter: Option<String>,
    /// Whether the name had PEFT's prefix `base_model.model.`.
    pub prefixed: bool,
}

impl AdapterTensorName {
    pub fn parse(name: &str) -> AdapterTensorName {
        let mut rest = name.strip_prefix("module.").unwrap_or(name);
        let mut prefixed = false;
        while let Some(inner) = rest.strip_prefix("base_model.model.") {
            (rest, prefixed) = (inner, true);
        }
        let parts: Vec<&str> = rest.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        let (module, role, adapter) = Self::split(&parts);
        AdapterTensorName { module: module.join("."), role, adapter: adapter.map(ToString::to_string), prefixed }
    }

    fn split<'a>(parts: &[&'a str]) -> (Vec<&'a str>, TensorRole, Option<&'a str>) {
        if let Some(at) = parts.iter().position(|part| part.starts_with("lora_")) {
            let module = without_base_layer(&parts[..at]);
            let (kind, rest) = (parts[at], &parts[at + 1..]);
            let known = match kind {
                "lora_A" => Some((TensorRole::A, "weight")),
                "lora_B" => Some((TensorRole::B, "weight")),
                "lora_embedding_A" => Some((TensorRole::EmbeddingA, "weight")),
                "lora_embedding_B" => Some((TensorRole::EmbeddingB, "weight")),
                "lora_magnitude_vector" => Some((TensorRole::Magnitude, "weight")),
                _ => None,
            };
            return match (known, rest) {
                (Some((role, _)), []) => (module, role, None),
                (Some((role, parameter)), [last]) if *last == parameter => (module, role, None),
                (Some((role, parameter)), [adapter, last]) if *last == parameter => (module, role, Some(adapter)),
                (Some((TensorRole::B, _)), ["bias"]) => (module, TensorRole::BiasOfB, None),
                (Some((TensorRole::B, _)), [adapter, "bias"]) => (module, TensorRole::BiasOfB, Some(adapter)),
                (Some((role, _)), [adapter]) if role != TensorRole::A && role != TensorRole::B => (module, role, Some(adapter)),
                _ => (module, TensorRole::Other(parts[at..].join(".")), None),
            };
        }
        if let Some(at) = parts.iter().position(|part| part.starts_with("token_adapter") || part.starts_with("trainable_tokens_")) {
            return (parts[..at].to_vec(), TensorRole::Other(parts[at..].join(".")), None);
        }
        let whole = |parameter: &str, original| TensorRole::Whole { parameter: parameter.to_string(), original };
        let last = parts.last().copied().unwrap_or_default();
        if let Some(at) = parts.iter().position(|part| *part == "modules_to_save" || *part == "original_module") {
            let adapter = if parts.len() == at + 3 { Some(parts[at + 1]) } else { None };
            return (parts[..at].to_vec(), whole(last, parts[at] == "original_module"), adapter);
        }
        let module = &parts[..parts.len().saturating_sub(1)];
        (without_base_layer(module), whole(last, false), None)
    }
}

/// A module's path without `base_layer`, in which PEFT keeps an adapted module. Fused experts keep it: PEFT nests their adapters.
fn without_base_layer<'a>(module: &[&'a str]) -> Vec<&'a str> {
    let inner = module.iter().rposition(|part| *part != "base_layer").map_or(0, |at| at + 1);
    if inner > 0 && module[inner - 1] == "experts" { module.to_vec() } else { module[..inner].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(parameter: &str, original: bool) -> TensorRole {
        TensorRole::Whole { parameter: parameter.into(), original }
    }

    #[test]
    fn old_and_new_names_mean_the_same() {
        let q = "model.layers.0.self_attn.q_proj";
        for (name, module, role) in [
            (format!("base_model.model.{q}.lora_A.weight"), q, TensorRole::A),
            (format!("base_model.model.{q}.lora_B.default.weight"), q, TensorRole::B),
            (format!("base_model.model.base_model.model.{q}.lora_A.weight"), q, TensorRole::A),
            (format!("module.base_model.model._orig_mod.{q}.base_layer.lora_A.weight"), q, TensorRole::A),
            (format!("{q}.lora_B.bias"), q, TensorRole::BiasOfB),
            (format!("{q}.lora_magnitude_vector"), q, TensorRole::Magnitude),
            (format!("{q}.lora_magnitude_vector.default.weight"), q, TensorRole::Magnitude),
            ("base_model.model.model.embed_tokens.lora_embedding_A.default".into(), "model.embed_tokens", TensorRole::EmbeddingA),
            ("base_model.model.model.embed_tokens.base_layer.weight".into(), "model.embed_tokens", whole("weight", false)),
            ("base_model.model.lm_head.modules_to_save.default.weight".into(), "lm_head", whole("weight", false)),
            ("base_model.model.lm_head.modules_to_save.weight".into(), "lm_head", whole("weight", false)),
            ("base_model.model.lm_head.original_module.weight".into(), "lm_head", whole("weight", true)),
            ("base_model.model.lm_head.weight".into(), "lm_head", whole("weight", false)),
            (format!("{q}.lora_E.default"), q, TensorRole::Other("lora_E.default".into())),
            ("model.embed_tokens.token_adapter.trainable_tokens_delta".into(), "model.embed_tokens", {
                TensorRole::Other("token_adapter.trainable_tokens_delta".into())
            }),
            ("m.mlp.experts.base_layer.lora_A.weight".into(), "m.mlp.experts.base_layer", TensorRole::A),
        ] {
            let found = AdapterTensorName::parse(&name);
            assert_eq!((found.module.as_str(), &found.role), (module, &role), "{name}");
        }
        assert_eq!(AdapterTensorName::parse("x.lora_A.sql.weight").adapter.as_deref(), Some("sql"));
    }
}
