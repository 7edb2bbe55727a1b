//! Recording why: a recorder is handed to every step, and costs nothing when it is `()`.

use std::fmt;

/// One step of a decision, and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// `listener`, `virtual host`, `route`, `rbac`, …
    pub step: &'static str,
    /// What it is about: a resource's or rule's name.
    pub subject: String,
    pub reason: String,
}

impl Note {
    pub fn new(step: &'static str, subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { step, subject: subject.into(), reason: reason.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.step, self.subject, self.reason)
    }
}

/// Who listens to the reasons.
pub trait Recorder {
    fn note(&mut self, note: impl FnOnce() -> Note);
}

/// Nobody: the proxy's own.
impl Recorder for () {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Note) {}
}

/// All notes in order: `explain`'s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    pub notes: Vec<Note>,
}

impl Recorder for Explanation {
    fn note(&mut self, note: impl FnOnce() -> Note) {
        self.notes.push(note());
    }
}
