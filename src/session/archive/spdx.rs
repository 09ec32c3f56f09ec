//! `spdx.json`: what a session was made from, as a software bill of materials in SPDX 2.3 (<https://spdx.github.io/spdx-spec/v2.3/>): the data
//! sets and model files with their hashes, and the packages with their versions. Licences are not known here, so they stand as NOASSERTION.

use serde_json::{Map, Value, json};

use super::manifest::ArchiveManifest;

const NAMESPACE: &str = "https://spdx.org/spdxdocs/pyrust-nn";

/// The document. `record`: session.json.
pub(super) fn document(manifest: &ArchiveManifest, record: &Map<String, Value>) -> Value {
    let own = package("SPDXRef-Session", &format!("session {}", manifest.session), None, None);
    let inputs = record.get("sha256").and_then(Value::as_object).into_iter().flatten().enumerate().map(|(i, (path, sha256))| {
        let name = path.rsplit('/').next().unwrap_or(path);
        package(&format!("SPDXRef-Input-{i}"), name, None, sha256.as_str().map(|sha256| (path.as_str(), sha256)))
    });
    let python = record.get("python").and_then(Value::as_str).map(|version| ("python", version));
    let packages = record.get("packages").and_then(Value::as_object).into_iter().flatten();
    let versions = packages.filter_map(|(name, version)| Some((name.as_str(), version.as_str()?)));
    let tools = [("pyrust-nn", manifest.version.as_str())].into_iter().chain(python).chain(versions).enumerate();
    let tools = tools.map(|(i, (name, version))| package(&format!("SPDXRef-Tool-{i}"), name, Some(version), None));
    let packages: Vec<Value> = std::iter::once(own).chain(inputs).chain(tools).collect();
    let relationship =
        |from: &str, kind: &str, to: &Value| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let relationships: Vec<Value> = packages
        .iter()
        .map(|one| match one["SPDXID"].as_str() {
            Some("SPDXRef-Session") => relationship("SPDXRef-DOCUMENT", "DESCRIBES", &one["SPDXID"]),
            Some(id) if id.starts_with("SPDXRef-Input") => relationship("SPDXRef-Session", "GENERATED_FROM", &one["SPDXID"]),
            id => relationship(id.unwrap_or_default(), "BUILD_TOOL_OF", &"SPDXRef-Session".into()),
        })
        .collect();
    // Unique: two exports never have the same moment and content.
    let unique = manifest.files.first().map_or("", |file| &file.sha256[..16.min(file.sha256.len())]);
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("pyrust-nn session {}", manifest.session),
        "documentNamespace": format!("{NAMESPACE}/{}-{}-{unique}", manifest.session, manifest.exported_at.replace([':', '.'], "-")),
        // SPDX has whole seconds.
        "creationInfo": {"created": format!("{}Z", &manifest.exported_at[..19]), "creators": [format!("Tool: pyrust-nn-{}", manifest.version)]},
        "packages": packages,
        "relationships": relationships,
    })
}

fn package(id: &str, name: &str, version: Option<&str>, file: Option<(&str, &str)>) -> Value {
    let mut package = json!({"SPDXID": id, "name": name, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION"});
    if let Some(version) = version {
        package["versionInfo"] = version.into();
    }
    if let Some((path, sha256)) = file {
        package["comment"] = path.into();
        package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
    }
    package
}
