//! Strategic merge: a merge patch that knows how core kinds' lists are keyed.

use crate::schema::{Id, Node, PatchStrategy, Schemas};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

pub(super) fn apply(
    schemas: &Schemas,
    id: Option<Id>,
    object: &mut Value,
    patch: &Value,
) -> Result<(), String> {
    let Some(patch) = patch.as_object() else { return Err("not a JSON object".into()) };
    map(schemas, id, object, patch)
}

fn node(schemas: &Schemas, id: Option<Id>) -> Option<&Node> {
    id.map(|id| schemas.node(id))
}

fn child(schemas: &Schemas, id: Option<Id>, name: &str) -> Option<Id> {
    id.and_then(|id| schemas.field(id, name))
}

fn map(
    schemas: &Schemas,
    id: Option<Id>,
    object: &mut Value,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let rest = patch.iter().filter(|(key, _)| key.as_str() != DIRECTIVE);
            *object = Value::Object(rest.map(|(k, v)| (k.clone(), v.clone())).collect());
            return Ok(());
        }
        Some("delete") => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("unknown $patch directive {other:?}")),
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(target) = object.as_object_mut() else { return Ok(()) };
    if let Some(keys) = patch.get(RETAIN).and_then(Value::as_array) {
        target.retain(|key, _| keys.iter().any(|kept| kept == key));
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        if value.is_null() {
            target.shift_remove(key);
            continue;
        }
        let inner = child(schemas, id, key);
        let order = patch.get(&format!("{ORDER_PREFIX}{key}")).and_then(Value::as_array);
        field(schemas, inner, target, key, value, order)?;
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_PREFIX) {
            let gone = value.as_array().ok_or(format!("{key} is not a list"))?;
            if let Some(Value::Array(list)) = target.get_mut(name) {
                list.retain(|item| !gone.contains(item));
            }
        } else if let Some(name) = key.strip_prefix(ORDER_PREFIX)
            && !patch.contains_key(name)
            && let (Some(order), Some(Value::Array(list))) = (value.as_array(), target.get_mut(name))
        {
            let strategy = node(schemas, child(schemas, id, name)).map(|n| n.patch.clone());
            reorder(list, order, &strategy.unwrap_or_default());
        }
    }
    Ok(())
}

fn field(
    schemas: &Schemas,
    id: Option<Id>,
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    order: Option<&Vec<Value>>,
) -> Result<(), String> {
    match value {
        Value::Object(patch) => {
            let slot = target.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            map(schemas, id, slot, patch)?;
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                target.shift_remove(key);
            }
        }
        Value::Array(patch) => {
            let strategy = node(schemas, id).map(|node| node.patch.clone()).unwrap_or_default();
            if !strategy.merge {
                target.insert(key.to_owned(), Value::Array(without_directives(patch)));
                return Ok(());
            }
            let slot = target.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Some(list) = slot.as_array_mut() else { return Ok(()) };
            let items = node(schemas, id).and_then(|node| node.items);
            match &strategy.key {
                Some(name) => keyed(schemas, items, list, patch, name)?,
                None => primitives(list, patch),
            }
            // Without an explicit order the patch's own counts.
            reorder(list, order.unwrap_or(patch), &strategy);
        }
        other => {
            target.insert(key.to_owned(), other.clone());
        }
    }
    Ok(())
}

fn without_directives(list: &[Value]) -> Vec<Value> {
    list.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect()
}

fn primitives(list: &mut Vec<Value>, patch: &[Value]) {
    for item in patch {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn keyed(
    schemas: &Schemas,
    items: Option<Id>,
    list: &mut Vec<Value>,
    patch: &[Value],
    key: &str,
) -> Result<(), String> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        *list = without_directives(patch);
        return Ok(());
    }
    for item in patch {
        let name = item.get(key).ok_or(format!("map does not contain declared merge key: {key}"))?;
        let place = list.iter().position(|old| old.get(key) == Some(name));
        if directive(item).as_deref() == Some("delete") {
            list.retain(|old| old.get(key) != Some(name));
            continue;
        }
        let Some(patch) = item.as_object() else { continue };
        match place {
            Some(place) => map(schemas, items, &mut list[place], patch)?,
            None => {
                let mut new = Value::Object(Map::new());
                map(schemas, items, &mut new, patch)?;
                list.push(new);
            }
        }
    }
    Ok(())
}

/// Puts the named items into the given order; the others stay where they were among them.
fn reorder(list: &mut Vec<Value>, order: &[Value], strategy: &PatchStrategy) {
    let name = |item: &Value| match &strategy.key {
        Some(key) => item.get(key).cloned(),
        None => Some(item.clone()),
    };
    let rank = |item: &Value| order.iter().position(|wanted| name(wanted) == name(item));
    let mut named: Vec<(usize, Value)> =
        list.iter().filter_map(|item| Some((rank(item)?, item.clone()))).collect();
    named.sort_by_key(|(rank, _)| *rank);
    let mut others: Vec<(usize, Value)> = Vec::new();
    let mut seen = 0;
    for item in list.iter() {
        if rank(item).is_some() { seen += 1 } else { others.push((seen, item.clone())) }
    }
    let mut out: Vec<Value> = Vec::with_capacity(list.len());
    let mut named = named.into_iter().map(|(_, item)| item).peekable();
    let mut taken = 0;
    for (after, item) in others {
        while taken < after {
            out.extend(named.next());
            taken += 1;
        }
        out.push(item);
    }
    out.extend(named);
    *list = out;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Core, Kinds};
    use serde_json::json;

    fn patched(core: Core, mut object: Value, patch: &Value) -> Value {
        let kinds = Kinds::standard();
        apply(&kinds.schemas, Some(kinds.core(core).schema), &mut object, patch).unwrap();
        object
    }

    #[test]
    fn lists_merge_by_their_keys() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
        let out = patched(
            Core::Service,
            service.clone(),
            &json!({"spec": {"$setElementOrder/ports": [{"port": 81}, {"port": 80}],
                "ports": [{"port": 80, "name": "x"}]}}),
        );
        assert_eq!(out["spec"]["ports"], json!([{"port": 81, "name": "b"}, {"port": 80, "name": "x"}]));
        let out = patched(
            Core::Service,
            service.clone(),
            &json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}),
        );
        assert_eq!(out["spec"]["ports"], json!([{"port": 81, "name": "b"}]));
        let out = patched(
            Core::Service,
            service,
            &json!({"spec": {"ports": [{"$patch": "replace"}, {"port": 1}]}}),
        );
        assert_eq!(out["spec"]["ports"], json!([{"port": 1}]));
    }

    #[test]
    fn nulls_delete_and_finalizers_are_primitive() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3"},
            "$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]}});
        let out = patched(Core::ConfigMap, object, &patch);
        assert_eq!(out, json!({"metadata": {"labels": {"b": "2", "c": "3"}, "finalizers": ["y", "z"]}}));
    }

    #[test]
    fn deployments_merge_containers_by_name() {
        let object = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "1",
            "env": [{"name": "X", "value": "1"}]}]}}}});
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "2",
            "env": [{"name": "Y", "value": "2"}]}]}}}});
        let out = patched(Core::Deployment, object, &patch);
        assert_eq!(
            out.pointer("/spec/template/spec/containers").unwrap(),
            &json!([{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}])
        );
    }
}
