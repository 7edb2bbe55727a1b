//! Schemas as the server works with them: an arena of nodes compiled from OpenAPI, and the walks over
//! values that it guides (unknown fields, types, defaults).
//!
//! What a schema says beyond structure (CEL, oneOf) is not judged here; the `api` crate does.

use crate::status::Cause;
use serde_json::{Map, Value};
use std::collections::HashMap;

pub type Id = u32;

/// What a node admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Type {
    /// Anything: raw JSON, quantities, preserved objects.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// By the values of these fields.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a list.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    pub key: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub typ: Type,
    pub properties: HashMap<String, Id>,
    /// The type of the values of a map.
    pub additional: Option<Id>,
    pub items: Option<Id>,
    pub list: ListType,
    pub patch: PatchStrategy,
    /// A map that is owned and replaced as a whole.
    pub atomic_map: bool,
    pub preserve_unknown: bool,
    pub nullable: bool,
    pub default: Option<Value>,
    pub required: Vec<String>,
    pub allowed: Vec<Value>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub min_items: Option<u64>,
    /// The short name of the Go type, for messages about core kinds.
    pub go_name: Option<String>,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Schemas {
    nodes: Vec<Node>,
    named: HashMap<String, Id>,
}

impl Schemas {
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub fn named(&self, name: &str) -> Option<Id> {
        self.named.get(name).copied()
    }

    /// The node of a field: a property, or the value type of a map.
    pub fn field(&self, id: Id, name: &str) -> Option<Id> {
        let node = self.node(id);
        node.properties.get(name).copied().or(node.additional)
    }

    /// Compiles definitions that refer to each other by `#/components/schemas/NAME`.
    pub fn define(&mut self, definitions: &Map<String, Value>) {
        for name in definitions.keys() {
            self.reserve(name);
        }
        for (name, schema) in definitions {
            let mut node = self.compile(schema);
            node.go_name = go_name(name);
            if name.ends_with(".FieldsV1") || name.ends_with(".RawExtension") {
                node.typ = Type::Any;
            }
            let id = self.reserve(name);
            self.nodes[id as usize] = node;
        }
    }

    /// Compiles a schema that stands alone, such as a CRD's.
    pub fn add(&mut self, schema: &Value) -> Id {
        if let Some(name) = reference(schema) {
            let name = name.to_owned();
            if schema.get("x-kubernetes-list-type").is_none() {
                return self.reserve(&name);
            }
        }
        let node = self.compile(schema);
        self.push(node)
    }

    fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        Id::try_from(self.nodes.len() - 1).unwrap_or(Id::MAX)
    }

    fn reserve(&mut self, name: &str) -> Id {
        if let Some(&id) = self.named.get(name) {
            return id;
        }
        let id = self.push(Node::default());
        self.named.insert(name.to_owned(), id);
        id
    }

    fn compile(&mut self, schema: &Value) -> Node {
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let strings = |key: &str| -> Vec<String> {
            let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let mut node = Node {
            typ: type_of(schema),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            nullable: flag("nullable"),
            atomic_map: text("x-kubernetes-map-type") == Some("atomic"),
            default: schema.get("default").cloned(),
            required: strings("required"),
            allowed: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            minimum: schema.get("minimum").and_then(Value::as_f64),
            maximum: schema.get("maximum").and_then(Value::as_f64),
            min_items: schema.get("minItems").and_then(Value::as_u64),
            ..Node::default()
        };
        node.list = match text("x-kubernetes-list-type") {
            Some("map") => ListType::Map(strings("x-kubernetes-list-map-keys")),
            Some("set") => ListType::Set,
            _ => ListType::Atomic,
        };
        let strategy = text("x-kubernetes-patch-strategy").unwrap_or("");
        node.patch = PatchStrategy {
            merge: strategy.contains("merge"),
            retain_keys: strategy.contains("retainKeys"),
            key: text("x-kubernetes-patch-merge-key").map(str::to_owned),
        };
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            node.properties = properties.iter().map(|(name, s)| (name.clone(), self.add(s))).collect();
        }
        if let Some(extra @ Value::Object(_)) = schema.get("additionalProperties") {
            node.additional = Some(self.add(extra));
        }
        if let Some(items) = schema.get("items") {
            node.items = Some(self.add(items));
        }
        node
    }
}

/// The definition that a schema refers to, directly or through a single `allOf`.
fn reference(schema: &Value) -> Option<&str> {
    let target = match schema.get("$ref") {
        Some(target) => target,
        None => schema.get("allOf")?.as_array()?.first()?.get("$ref")?,
    };
    target.as_str()?.rsplit('/').next()
}

fn type_of(schema: &Value) -> Type {
    if schema.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true) {
        return Type::IntOrString;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        _ if schema.get("properties").is_some() => Type::Object,
        _ => Type::Any,
    }
}

/// `io.k8s.api.core.v1.ServicePort` is `v1.ServicePort` in Go.
fn go_name(name: &str) -> Option<String> {
    let mut parts = name.rsplit('.');
    let (kind, version) = (parts.next()?, parts.next()?);
    Some(format!("{version}.{kind}"))
}

/// A path into an object, as Kubernetes writes it: `spec.ports[0].name`.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// The wrong type at some place.
#[derive(Debug)]
pub struct Mismatch {
    pub path: String,
    pub found: &'static str,
    pub wanted: &'static str,
    /// In Go's words, for core kinds.
    pub go: String,
}

impl Mismatch {
    /// As the validation of custom resources says it.
    pub fn cause(&self) -> Cause {
        let Self { path, found, wanted, .. } = self;
        let found = if *found == "bool" { "boolean" } else { found };
        Cause {
            reason: "FieldValueTypeInvalid",
            message: format!(
                "Invalid value: \"{found}\": {path} in body must be of type {wanted}: \"{found}\""
            ),
            field: path.clone(),
        }
    }
}

/// What decoding found besides the object.
#[derive(Debug, Default)]
pub struct Findings {
    /// Paths of fields that the schema does not have, with the name that was perhaps meant; they are removed.
    pub unknown: Vec<(String, Option<String>)>,
    pub mismatches: Vec<Mismatch>,
}

/// How an object is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decoding {
    /// As Go's structs: nulls and empty maps and lists vanish.
    Core,
    /// As a custom resource: what is there stays.
    Custom,
}

impl Schemas {
    /// Removes unknown fields and nulls, and finds values of the wrong type.
    pub fn decode(&self, id: Id, value: &mut Value, decoding: Decoding) -> Findings {
        let mut findings = Findings::default();
        self.walk(id, value, &Path::Root, "", decoding, &mut findings);
        findings
    }

    fn walk(
        &self,
        id: Id,
        value: &mut Value,
        path: &Path<'_>,
        owner: &str,
        how: Decoding,
        out: &mut Findings,
    ) {
        let node = self.node(id);
        if let Some(wanted) = mismatch(node, value) {
            out.mismatches.push(Mismatch {
                path: path.to_string(),
                found: json_type(value, how),
                wanted,
                go: self.go_message(node, value, path, owner),
            });
            return;
        }
        match value {
            Value::Object(map) => self.walk_map(node, map, path, how, out),
            Value::Array(list) => {
                let Some(items) = node.items else { return };
                for (index, item) in list.iter_mut().enumerate() {
                    self.walk(items, item, &Path::Index(path, index), owner, how, out);
                }
            }
            _ => {}
        }
    }

    fn walk_map(
        &self,
        node: &Node,
        map: &mut Map<String, Value>,
        path: &Path<'_>,
        how: Decoding,
        out: &mut Findings,
    ) {
        if node.typ == Type::Any || (node.preserve_unknown && node.properties.is_empty()) {
            return;
        }
        let owner = node.go_name.as_deref().and_then(|name| name.rsplit('.').next()).unwrap_or("");
        let bare = node.properties.is_empty() && node.additional.is_none();
        map.retain(|key, value| {
            let place = Path::Field(path, key);
            let Some(id) = node.properties.get(key).copied().or(node.additional) else {
                if !node.preserve_unknown && !bare {
                    let meant = match how {
                        Decoding::Core => None,
                        Decoding::Custom => api::nearest(key, node.properties.keys().map(String::as_str)),
                    };
                    out.unknown.push((place.to_string(), meant.map(str::to_owned)));
                }
                return node.preserve_unknown || (bare && how == Decoding::Core);
            };
            if value.is_null() && !self.node(id).nullable {
                return node.additional == Some(id) && how == Decoding::Custom;
            }
            self.walk(id, value, &place, owner, how, out);
            how == Decoding::Custom || !self.omitted(id, value)
        });
    }

    /// Go leaves out empty lists and maps when it writes an object.
    fn omitted(&self, id: Id, value: &Value) -> bool {
        match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty() && self.node(id).additional.is_some(),
            _ => false,
        }
    }

    fn go_message(&self, node: &Node, value: &Value, path: &Path<'_>, owner: &str) -> String {
        let found = json_type(value, Decoding::Core);
        let at = path.to_string();
        let target = format!("{owner}.{}", strip_indexes(&at));
        format!("json: cannot unmarshal {found} into Go struct field {target} of type {}", self.go_type(node))
    }

    fn go_type(&self, node: &Node) -> String {
        let inner = |id: Option<Id>| id.map_or("interface {}".into(), |id| self.go_type(self.node(id)));
        match node.typ {
            Type::Array => format!("[]{}", inner(node.items)),
            Type::Object if node.additional.is_some() => format!("map[string]{}", inner(node.additional)),
            Type::Object => node.go_name.clone().unwrap_or("struct".into()),
            Type::String => "string".into(),
            Type::Integer => "int32".into(),
            Type::Number => "float64".into(),
            Type::Boolean => "bool".into(),
            Type::IntOrString => "intstr.IntOrString".into(),
            Type::Any => "interface {}".into(),
        }
    }

    /// Fills in what the schema says by default; for custom resources.
    pub fn fill_defaults(&self, id: Id, value: &mut Value) {
        let node = self.node(id);
        match value {
            Value::Object(map) => {
                for (name, &child) in &node.properties {
                    if !map.contains_key(name)
                        && let Some(default) = &self.node(child).default
                    {
                        map.insert(name.clone(), default.clone());
                    }
                }
                for (name, value) in map.iter_mut() {
                    if let Some(child) = self.field(id, name) {
                        self.fill_defaults(child, value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = node.items {
                    list.iter_mut().for_each(|item| self.fill_defaults(items, item));
                }
            }
            _ => {}
        }
    }

    /// What a custom resource's schema says of values: required fields, enumerations, bounds.
    pub fn judge(&self, id: Id, value: &Value, path: &Path<'_>, out: &mut Vec<Cause>) {
        let node = self.node(id);
        if !node.allowed.is_empty() && !node.allowed.contains(value) {
            let allowed: Vec<&str> = node.allowed.iter().filter_map(Value::as_str).collect();
            out.push(Cause::unsupported(path.to_string(), value, &allowed));
        }
        if let Some(number) = value.as_f64() {
            bounds(node, number, value, path, out);
        }
        match value {
            Value::Object(map) => {
                for name in node.required.iter().filter(|name| !map.contains_key(*name)) {
                    out.push(Cause::required(Path::Field(path, name).to_string(), ""));
                }
                for (name, value) in map {
                    if let Some(child) = self.field(id, name) {
                        self.judge(child, value, &Path::Field(path, name), out);
                    }
                }
            }
            Value::Array(list) => {
                if node.min_items.is_some_and(|least| (list.len() as u64) < least) {
                    let least = node.min_items.unwrap_or(0);
                    let why = format!("{path} in body should have at least {least} items");
                    out.push(Cause::invalid(path.to_string(), &Value::from(list.len()), why));
                }
                if let Some(items) = node.items {
                    for (index, item) in list.iter().enumerate() {
                        self.judge(items, item, &Path::Index(path, index), out);
                    }
                }
            }
            _ => {}
        }
    }
}

fn bounds(node: &Node, number: f64, value: &Value, path: &Path<'_>, out: &mut Vec<Cause>) {
    if let Some(least) = node.minimum.filter(|least| number < *least) {
        let why = format!("{path} in body should be greater than or equal to {least}");
        out.push(Cause::invalid(path.to_string(), value, why));
    }
    if let Some(most) = node.maximum.filter(|most| number > *most) {
        let why = format!("{path} in body should be less than or equal to {most}");
        out.push(Cause::invalid(path.to_string(), value, why));
    }
}

fn strip_indexes(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn json_type(value: &Value, how: Decoding) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(n) if how == Decoding::Custom && n.is_f64() => "number",
        Value::Number(_) if how == Decoding::Custom => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type that the node wants when the value has another.
fn mismatch(node: &Node, value: &Value) -> Option<&'static str> {
    let (fits, wanted) = match node.typ {
        Type::Any => (true, "any"),
        Type::Object => (value.is_object(), "object"),
        Type::Array => (value.is_array(), "array"),
        Type::String => (value.is_string(), "string"),
        Type::Integer => (integral(value), "integer"),
        Type::Number => (value.is_number(), "number"),
        Type::Boolean => (value.is_boolean(), "boolean"),
        Type::IntOrString => (value.is_string() || value.is_number(), "integer,string"),
    };
    let fits = fits || (value.is_null() && node.nullable);
    (!fits).then_some(wanted)
}

fn integral(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}
