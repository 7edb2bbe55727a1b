//! What `fuzz/` calls of this crate: each function reads bytes as a client may send them, and panics where something does
//! not hold that must hold of all bytes. The server itself calls none of it.

use serde_json::Value;

use crate::fields::{self, FieldSet, Request};
use crate::http::protobuf;
use crate::http::request::{Query, ResourcePath, form, json};
use crate::kinds::{Kinds, Resource};
use crate::patch::{PatchKind, patch};
use crate::selector::{Fields, Labels};

/// An object in Kubernetes' protobuf, with or without the mark in front.
pub fn protobuf_object(data: &[u8]) {
    let _ = protobuf::decode(data, "Pod");
    let _ = protobuf::decode(&[b"k8s\0", data].concat(), "Pod");
}

/// Line by line: path, query, selectors, what is accepted; then a body.
pub fn request(kinds: &Kinds, data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(6, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let _ = ResourcePath::parse(next());
    let query = Query::parse(Some(next()));
    let _ = (query.flag("watch"), query.optional_flag("force"), query.number("limit"));
    let (labels, selected) = (Labels::parse(next()), Fields::parse(next(), pods(kinds)));
    let _ = form(next());
    let Ok((value, _)) = json(next().as_bytes()) else { return };
    let _ = (labels.is_ok_and(|l| l.matches(&value)), selected.is_ok_and(|f| f.matches(&value)));
}

/// A patch of the kind that the first byte says: the object, a zero byte, the patch.
pub fn patched(kinds: &Kinds, data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let mut documents = rest.splitn(2, |b| *b == 0).map(serde_json::from_slice::<Value>);
    let (Some(Ok(live)), Some(Ok(wanted))) = (documents.next(), documents.next()) else { return };
    let (schemas, schema) = (&kinds.schemas, pods(kinds).schema);
    let how =
        [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic, PatchKind::Apply][usize::from(kind) % 4];
    if how != PatchKind::Apply {
        if let Ok(result) = patch(how, schemas, schema, &live, &wanted) {
            let text = result.to_string();
            assert_eq!(
                serde_json::from_str::<Value>(&text).ok().as_ref(),
                Some(&result),
                "cannot be read back"
            );
        }
        return;
    }
    let request = Request {
        manager: "fuzz",
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        status_apart: true,
    };
    let force = kind & 4 != 0;
    let Ok(applied) = fields::apply(schemas, schema, &live, &wanted, &request, force, |_| {}) else { return };
    let mut object = applied.object.clone();
    applied.finish(&mut object);
    let own = FieldSet::of(schemas, Some(schema), &wanted);
    assert_eq!(FieldSet::decode(&own.encode()), own, "a set of fields is read back as it was written");
}

fn pods(kinds: &Kinds) -> &Resource {
    kinds.core(crate::kinds::Core::Pod)
}
