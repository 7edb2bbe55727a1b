use super::*;
use crate::store::{DiskOptions, DiskStore, Sealer};
use base::ManualClock;
use std::time::{Duration, UNIX_EPOCH};

fn engine(folder: &std::path::Path, window_events: usize) -> Arc<Engine> {
    let store = DiskStore::open(DiskOptions {
        path: folder.join("store.redb"),
        sealer: Sealer::from_key(&[7; 32]).unwrap(),
        sealed: crate::kinds::sealed,
        window_events,
        window_bytes: 1 << 20,
    });
    let clock = ManualClock::starting_at(UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    Arc::new(Engine::new(Kinds::standard(), Arc::new(store.unwrap()), Arc::new(clock)))
}

fn options() -> WriteOptions {
    WriteOptions { manager: "test".into(), force: false, ..WriteOptions::internal() }
}

async fn with_namespace(folder: &std::path::Path, window_events: usize) -> Arc<Engine> {
    let engine = engine(folder, window_events);
    let target =
        Target { name: None, ..Target::of(engine.kinds.core(crate::kinds::Core::Namespace), None, "") };
    let body = json!({ "metadata": { "name": "n" } });
    engine.create(&target, body, &[], &options()).await.unwrap();
    engine
}

fn maps(engine: &Engine, name: Option<&str>) -> Target {
    let target = Target::of(engine.kinds.core(crate::kinds::Core::ConfigMap), Some("n"), "");
    Target { name: name.map(str::to_owned), ..target }
}

async fn make(engine: &Engine, metadata: Value) -> Result<Written> {
    engine.create(&maps(engine, None), json!({ "metadata": metadata }), &[], &options()).await
}

#[tokio::test]
async fn times_and_names_are_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let engine = with_namespace(folder.path(), 100).await;
    let made = make(&engine, json!({ "generateName": "a-", "uid": "mine" })).await.unwrap().object;
    assert_eq!(text(&made, "/metadata/creationTimestamp"), "2001-09-09T01:46:40Z");
    assert!(name_of(&made).starts_with("a-") && name_of(&made).len() == 7);
    assert_eq!(uid_of(&made).len(), 36);
    let again = engine.get(&maps(&engine, Some(name_of(&made)))).unwrap();
    assert_eq!(again, made);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let engine = with_namespace(folder.path(), 100).await;
    let before = engine.store.revision();
    let dry = WriteOptions { dry_run: true, ..options() };
    let body = json!({ "metadata": { "name": "a" } });
    engine.create(&maps(&engine, None), body, &[], &dry).await.unwrap();
    assert_eq!(engine.store.revision(), before);
}

#[tokio::test]
async fn an_expired_token_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let engine = with_namespace(folder.path(), 3).await;
    for index in 0..4 {
        make(&engine, json!({ "name": format!("m{index}") })).await.unwrap();
    }
    let all = maps(&engine, None);
    let page = engine.list(&all, &ListOptions { limit: 2, ..Default::default() }).unwrap();
    assert_eq!((page.items.len(), page.remaining), (2, Some(2)));
    for index in 4..10 {
        make(&engine, json!({ "name": format!("m{index}") })).await.unwrap();
    }
    let continue_token = page.continue_token.unwrap();
    let expired =
        engine.list(&all, &ListOptions { limit: 2, continue_token, ..Default::default() }).unwrap_err();
    assert_eq!((expired.code, expired.reason), (410, "Expired"));
    let continue_token = expired.continue_token.unwrap();
    let rest = engine.list(&all, &ListOptions { continue_token, ..Default::default() }).unwrap();
    assert_eq!(rest.items.len(), 8);
}

#[tokio::test]
async fn an_old_watch_is_told_to_list_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = with_namespace(folder.path(), 3).await;
    let options = WatchOptions { resource_version: "1".into(), ..Default::default() };
    for index in 0..4 {
        make(&engine, json!({ "name": format!("m{index}") })).await.unwrap();
    }
    let refused = engine.watch(&maps(&engine, None), &options).err().unwrap();
    assert_eq!((refused.code, refused.reason), (410, "Expired"));
}

#[tokio::test]
async fn a_stale_version_conflicts_and_finalizers_hold() {
    let folder = tempfile::tempdir().unwrap();
    let engine = with_namespace(folder.path(), 100).await;
    let first = make(&engine, json!({ "name": "a", "finalizers": ["example.com/x"] })).await.unwrap().object;
    let target = maps(&engine, Some("a"));
    let mut second = first.clone();
    second["data"] = json!({ "k": "1" });
    engine.update(&target, second.clone(), &[], &options()).await.unwrap();
    let conflict = engine.update(&target, second, &[], &options()).await.unwrap_err();
    assert_eq!((conflict.code, conflict.reason), (409, "Conflict"));
    let held = engine.delete(&target, &DeleteOptions::default()).await.unwrap();
    assert!(matches!(held, Deleted::Held(_)));
    let mut free = engine.get(&target).unwrap();
    free["metadata"]["finalizers"] = json!([]);
    engine.update(&target, free, &[], &options()).await.unwrap();
    assert!(engine.find(&target).unwrap().is_none());
}
