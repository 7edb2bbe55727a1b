use super::*;

fn open(folder: &std::path::Path, window_events: usize) -> DiskStore {
    DiskStore::open(DiskOptions {
        path: folder.join("store.redb"),
        sealer: Sealer::open(&folder.join("key")).unwrap(),
        sealed: |key| key.starts_with("secret/"),
        window_events,
        window_bytes: 1 << 20,
    })
    .unwrap()
}

fn put(key: &str, value: &'static str) -> Txn {
    Txn { compare: vec![], then: vec![Op::Put(key.into(), Bytes::from_static(value.as_bytes()))] }
}

fn delete(key: &str) -> Txn {
    Txn { compare: vec![], then: vec![Op::Delete(key.into())] }
}

async fn done(store: &DiskStore, txn: Txn) -> Revision {
    match store.txn(txn).await.unwrap() {
        Outcome::Done(revision) => revision,
        other => panic!("{other:?}"),
    }
}

fn keys(page: &Page) -> Vec<String> {
    page.records.iter().map(|r| format!("{}={}", r.key, std::str::from_utf8(&r.value).unwrap())).collect()
}

#[tokio::test]
async fn what_was_written_is_read_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 100);
    let first = done(&store, put("a/1", "x")).await;
    let second = done(&store, put("secret/s", "hush")).await;
    assert!(second > first);
    done(&store, put("a/2", "y")).await;
    let last = done(&store, delete("a/2")).await;
    drop(store);
    let store = open(folder.path(), 100);
    assert_eq!(store.revision(), last);
    assert_eq!(store.get("a/1").unwrap().unwrap().modified, first);
    assert_eq!(&*store.get("secret/s").unwrap().unwrap().value, b"hush");
    assert!(store.get("a/2").unwrap().is_none());
    let bytes = std::fs::read(folder.path().join("store.redb")).unwrap();
    assert!(!bytes.windows(4).any(|window| window == b"hush"), "a sealed value is in the file in plaintext");
}

#[tokio::test]
async fn comparisons_guard_the_whole_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 100);
    let revision = done(&store, put("a", "1")).await;
    let absent = Compare { key: "a".into(), modified: 0 };
    let mut txn = put("a", "2");
    txn.then.push(Op::Put("b".into(), Bytes::from_static(b"2")));
    txn.compare.push(absent);
    let outcome = store.txn(txn.clone()).await.unwrap();
    assert!(
        matches!(&outcome, Outcome::Differs { key, now: Some(now) } if key == "a" && now.modified == revision)
    );
    assert!(store.get("b").unwrap().is_none());
    txn.compare = vec![Compare { key: "a".into(), modified: revision }];
    assert!(matches!(store.txn(txn).await.unwrap(), Outcome::Done(r) if r == revision + 1));
    assert!(store.get("b").unwrap().is_some());
}

#[tokio::test]
async fn ranges_page_and_look_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 100);
    for key in ["p/a", "p/b", "p/c", "q/a"] {
        done(&store, put(key, "1")).await;
    }
    let then = store.revision();
    done(&store, put("p/b", "2")).await;
    done(&store, delete("p/c")).await;
    done(&store, put("p/d", "3")).await;
    let now = store.range(&Range { prefix: "p/".into(), ..Range::default() }).unwrap();
    assert_eq!(keys(&now), ["p/a=1", "p/b=2", "p/d=3"]);
    let old = Range { prefix: "p/".into(), at: Some(then), limit: 2, after: None };
    let page = store.range(&old).unwrap();
    assert_eq!((keys(&page), page.remaining), (vec!["p/a=1".to_owned(), "p/b=1".into()], 1));
    let rest = store.range(&Range { after: Some("p/b".into()), ..old }).unwrap();
    assert_eq!((keys(&rest), rest.remaining), (vec!["p/c=1".to_owned()], 0));
    let future = Range { at: Some(then + 50), ..Range::default() };
    assert!(matches!(store.range(&future), Err(StoreError::Future { .. })));
}

#[tokio::test]
async fn watches_see_each_change_once_and_learn_of_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4);
    let start = store.revision();
    let mut cursor = store.watch("p/", start).unwrap();
    done(&store, put("p/a", "1")).await;
    done(&store, put("q/a", "1")).await;
    done(&store, delete("p/a")).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(cursor.next().await.unwrap());
    }
    assert!(seen[0].value.is_some() && seen[0].previous.is_none());
    assert!(seen[1].value.is_none() && seen[1].previous.as_deref() == Some(b"1"));
    let mut slow = store.watch("p/", start).unwrap();
    for _ in 0..10 {
        done(&store, put("q/b", "1")).await;
    }
    assert!(matches!(slow.next().await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.watch("p/", start), Err(StoreError::Compacted { .. })));
    let head = store.revision();
    store.compact(head);
    assert!(store.watch("p/", head).is_ok());
    assert!(matches!(store.watch("p/", head - 1), Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path(), 10_000));
    let before = store.revision();
    let writes = (0..300).map(|i| {
        let store = store.clone();
        async move { done(&store, put(&format!("k/{i:03}"), "v")).await }
    });
    let mut revisions = futures::future::join_all(writes).await;
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 300);
    assert_eq!(store.revision(), before + 300);
}

#[tokio::test]
async fn a_wrong_or_readable_key_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4);
    done(&store, put("secret/a", "1")).await;
    drop(store);
    std::fs::remove_file(folder.path().join("key")).unwrap();
    let options = DiskOptions {
        path: folder.path().join("store.redb"),
        sealer: Sealer::open(&folder.path().join("key")).unwrap(),
        sealed: |key| key.starts_with("secret/"),
        window_events: 4,
        window_bytes: 1 << 20,
    };
    let error = DiskStore::open(options).err().unwrap().to_string();
    assert!(error.contains("secret/a"), "{error}");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path().join("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Sealer::open(&folder.path().join("key")).unwrap_err().to_string().contains("chmod 600"));
}
