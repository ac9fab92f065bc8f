//! The layer table of the root manifest against the dependencies that cargo sees. Knows what the table says, not why.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// What `cargo metadata` says about the workspace.
#[derive(Deserialize)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
    #[serde(rename = "metadata", deserialize_with = "layers_of")]
    pub(crate) layers: Layers,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal dependency, else "build" or "dev".
    kind: Option<String>,
}

/// `[workspace.metadata.layers]`; the root manifest explains each key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layers {
    /// Column, named `<row number>-<what it is>`, to its crates, each with the crates that it may depend on.
    rows: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    tops: BTreeSet<String>,
    planned: BTreeSet<String>,
    r#async: BTreeSet<String>,
    #[serde(rename = "unsafe")]
    pub(crate) unsafe_homes: Vec<String>,
    dev: BTreeMap<String, BTreeSet<String>>,
}

fn layers_of<'de, D: serde::Deserializer<'de>>(metadata: D) -> Result<Layers, D::Error> {
    #[derive(Deserialize)]
    struct Metadata {
        layers: Layers,
    }
    Metadata::deserialize(metadata).map(|metadata| metadata.layers)
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let mut cargo = process::cargo();
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        serde_json::from_str(&process::read_output(&mut cargo)?)
            .context("the layer table of Cargo.toml is not readable")
    }
}

/// Everything in which the table contradicts itself or the manifests.
pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let layers = &workspace.layers;
    let mut problems = check_table(layers);
    let members: BTreeSet<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    for (name, _) in layers.crates() {
        if members.contains(name) == layers.planned.contains(name) {
            problems.push(match layers.planned.contains(name) {
                true => format!("layers: {name} is listed as planned, but it exists"),
                false => format!("layers: {name} has a row, but no such crate exists; is it planned?"),
            });
        }
    }
    for package in &workspace.packages {
        problems.extend(check_package(layers, package, &members));
    }
    problems
}

impl Layers {
    /// Every crate with its column.
    fn crates(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rows.iter().flat_map(|(column, crates)| crates.keys().map(move |name| (name.as_str(), column.as_str())))
    }

    fn column_of(&self, name: &str) -> Option<&str> {
        self.crates().find_map(|(other, column)| (other == name).then_some(column))
    }

    fn allowed(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.rows.values().find_map(|crates| crates.get(name))
    }
}

/// The row number in a column's name.
fn row_of(column: &str) -> Option<u32> {
    column.split_once('-')?.0.parse().ok()
}

/// The table in itself: every edge goes to a lower row, or stays in its column.
fn check_table(layers: &Layers) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, column) in layers.crates() {
        if row_of(column).is_none() {
            problems.push(format!("layers: the column {column} is not named <row number>-<what it is>"));
        }
        if !seen.insert(name) {
            problems.push(format!("layers: {name} has two rows"));
        }
    }
    for (column, crates) in &layers.rows {
        for (name, allowed) in crates {
            for to in allowed {
                match layers.column_of(to) {
                    None => problems.push(format!("layers: {name} may see {to}, which has no row")),
                    Some(other) if other != column && row_of(other) >= row_of(column) => {
                        problems.push(format!("layers: {name} ({column}) may not be allowed to see {to} ({other})"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    for name in layers.planned.iter().chain(&layers.r#async).chain(layers.dev.keys()) {
        if layers.column_of(name).is_none() {
            problems.push(format!("layers: {name} is listed, but has no row"));
        }
    }
    problems
}

/// One crate's dependencies against its line of the table.
fn check_package(layers: &Layers, package: &Package, members: &BTreeSet<&str>) -> Vec<String> {
    let name = package.name.as_str();
    if layers.tops.contains(name) {
        return Vec::new();
    }
    let Some(allowed) = layers.allowed(name) else {
        return vec![format!("layers: {name} has no row in [workspace.metadata.layers]")];
    };
    let empty = BTreeSet::new();
    let allowed_dev = layers.dev.get(name).unwrap_or(&empty);
    let (dev, normal): (Vec<_>, Vec<_>) =
        package.dependencies.iter().partition(|dependency| dependency.kind.as_deref() == Some("dev"));

    let mut problems = Vec::new();
    for dependency in &normal {
        let to = dependency.name.as_str();
        if members.contains(to) && !allowed.contains(to) {
            problems.push(format!("layers: {name} depends on {to}, which its row does not allow"));
        }
        if is_async_edge(to) && !layers.r#async.contains(name) {
            problems.push(format!("layers: {name} depends on {to}, which only {:?} may", layers.r#async));
        }
    }
    for dependency in &dev {
        let to = dependency.name.as_str();
        if members.contains(to) && !allowed.contains(to) && !allowed_dev.contains(to) {
            problems.push(format!("layers: the tests of {name} depend on {to}, which the table does not allow"));
        }
    }
    let uses = |list: &[&Dependency], to: &String| list.iter().any(|dependency| dependency.name == *to);
    for to in allowed.iter().filter(|to| !uses(&normal, to)) {
        problems.push(format!("layers: {name} may see {to} and does not; remove the edge"));
    }
    for to in allowed_dev.iter().filter(|to| !uses(&dev, to)) {
        problems.push(format!("layers: the tests of {name} may see {to} and do not; remove the edge"));
    }
    problems
}

fn is_async_edge(dependency: &str) -> bool {
    dependency == "tokio"
        || dependency.starts_with("tokio-")
        || dependency == "tonic"
        || dependency.starts_with("tonic-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A sound workspace of a word, two columns and an edge, with one value replaced.
    fn workspace(pointer: &str, value: &Value) -> Workspace {
        let mut sound = json!({
            "packages": [
                { "name": "words", "dependencies": [{ "name": "serde", "kind": null }] },
                { "name": "decide", "dependencies": [
                    { "name": "words", "kind": null }, { "name": "paging", "kind": null }, { "name": "sim", "kind": "dev" },
                ] },
                { "name": "paging", "dependencies": [] },
                { "name": "compute", "dependencies": [{ "name": "words", "kind": null }] },
                { "name": "sim", "dependencies": [{ "name": "decide", "kind": null }] },
                { "name": "server", "dependencies": [{ "name": "decide", "kind": null }, { "name": "tonic", "kind": null }] },
                { "name": "tool", "dependencies": [{ "name": "server", "kind": null }, { "name": "tokio", "kind": null }] },
            ],
            "metadata": { "layers": {
                "rows": {
                    "1-words": { "words": [] },
                    "2-decide": { "decide": ["words", "paging"], "paging": [] },
                    "2-compute": { "compute": ["words"] },
                    "3-loop": { "sim": ["decide"] },
                    "4-edge": { "server": ["decide"], "web": ["server"] },
                },
                "tops": ["tool"],
                "planned": ["web"],
                "async": ["server"],
                "unsafe": [],
                "dev": { "decide": ["sim"] },
            } },
        });
        if !pointer.is_empty() {
            *sound.pointer_mut(pointer).expect("the case names a place") = value.clone();
        }
        serde_json::from_value(sound).expect("the case is a workspace")
    }

    #[track_caller]
    fn check_case(pointer: &str, value: &Value, expected: &[&str]) {
        assert_eq!(check(&workspace(pointer, value)), expected, "{pointer} = {value}");
    }

    #[test]
    fn tables_and_manifests() {
        let depends =
            |on: &[&str]| json!(on.iter().map(|name| json!({"name": name, "kind": null})).collect::<Vec<_>>());
        let rows = "/metadata/layers/rows";

        check_case("", &Value::Null, &[]);
        // Manifests that do what the table does not say.
        check_case(
            "/packages/0/dependencies",
            &depends(&["paging"]),
            &["layers: words depends on paging, which its row does not allow"],
        );
        check_case(
            "/packages/3/dependencies",
            &depends(&["words", "decide"]),
            &["layers: compute depends on decide, which its row does not allow"],
        );
        check_case(
            "/packages/2/dependencies",
            &depends(&["tokio-stream"]),
            &["layers: paging depends on tokio-stream, which only {\"server\"} may"],
        );
        check_case(
            "/packages/2/dependencies",
            &json!([{"name": "sim", "kind": "dev"}]),
            &["layers: the tests of paging depend on sim, which the table does not allow"],
        );
        check_case(
            "/packages/5/dependencies",
            &depends(&["decide", "tool"]),
            &["layers: server depends on tool, which its row does not allow"],
        );
        // Edges that nobody uses.
        check_case(
            "/packages/3/dependencies",
            &depends(&[]),
            &["layers: compute may see words and does not; remove the edge"],
        );
        check_case(
            "/metadata/layers/dev",
            &json!({"decide": ["sim"], "paging": ["sim"]}),
            &["layers: the tests of paging may see sim and do not; remove the edge"],
        );
        // A table that contradicts itself or the workspace.
        check_case(
            &format!("{rows}/2-compute/compute"),
            &json!(["words", "decide"]),
            &[
                "layers: compute (2-compute) may not be allowed to see decide (2-decide)",
                "layers: compute may see decide and does not; remove the edge",
            ],
        );
        check_case(
            &format!("{rows}/1-words/words"),
            &json!(["gone"]),
            &[
                "layers: words may see gone, which has no row",
                "layers: words may see gone and does not; remove the edge",
            ],
        );
        check_case(
            "/metadata/layers/planned",
            &json!([]),
            &["layers: web has a row, but no such crate exists; is it planned?"],
        );
        check_case(
            "/metadata/layers/planned",
            &json!(["web", "server"]),
            &["layers: server is listed as planned, but it exists"],
        );
        check_case("/metadata/layers/tops", &json!([]), &["layers: tool has no row in [workspace.metadata.layers]"]);
        check_case("/metadata/layers/async", &json!(["server", "tool"]), &["layers: tool is listed, but has no row"]);
    }
}
