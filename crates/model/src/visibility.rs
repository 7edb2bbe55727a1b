//! Who may see a resource: `exportTo`.

use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// `*`
    Public,
    /// `~`
    Hidden,
    /// These namespaces; `.` has been replaced by the resource's own.
    Namespaces(BTreeSet<Arc<str>>),
}

impl Visibility {
    /// From `exportTo` of a resource in `namespace`; an empty list means the mesh's default.
    pub fn parse(export_to: &[String], namespace: &Arc<str>, default: &[String]) -> Self {
        let list = if export_to.is_empty() { default } else { export_to };
        if list.is_empty() || list.iter().any(|entry| entry == "*") {
            return Self::Public;
        }
        if list.iter().any(|entry| entry == "~") {
            return Self::Hidden;
        }
        let own = |entry: &String| if entry == "." { Arc::clone(namespace) } else { entry.as_str().into() };
        Self::Namespaces(list.iter().map(own).collect())
    }

    pub fn admits(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Hidden => false,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_means_what_istio_means() {
        let own: Arc<str> = "a".into();
        let parse = |list: &[&str]| {
            Visibility::parse(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), &own, &[])
        };
        assert!(parse(&[]).admits("b"));
        assert!(parse(&["*"]).admits("b"));
        assert!(parse(&["."]).admits("a") && !parse(&["."]).admits("b"));
        assert!(parse(&["b", "."]).admits("b") && !parse(&["b"]).admits("a"));
        assert!(!parse(&["~"]).admits("a"));
        assert!(!Visibility::parse(&[], &own, &[".".into()]).admits("b"));
    }
}
