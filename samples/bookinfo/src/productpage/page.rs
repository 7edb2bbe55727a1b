//! What the page looks like.

use std::fmt::Write;

use http::StatusCode;
use serde_json::Value;

use super::Part;

pub(super) const TITLE: &str = "The Comedy of Errors";
pub(super) const DESCRIPTION: &str = "Two pairs of twins, parted at sea, meet in one town that cannot tell them apart. Shakespeare&rsquo;s shortest \
     play, and his most headlong.";
pub(super) const STYLE: &str = include_str!("style.css");

pub(super) fn index() -> String {
    document(
        None,
        "<section class=card><h2>Bookinfo</h2><p>One page made of four services, so that a mesh has something to \
         hold together.</p><ul><li><a href=\"/productpage\">The page as anybody sees it</a></li>\
         <li><a href=\"/productpage?u=test\">The same, for a test user</a></li></ul></section>",
    )
}

pub(super) fn product(user: Option<&str>, details: &Part, reviews: &Part) -> String {
    let mut body =
        format!("<section class=hero><h1>{TITLE}</h1><p>{DESCRIPTION}</p></section><div class=columns>");
    put_details(&mut body, details);
    put_reviews(&mut body, reviews);
    body.push_str("</div>");
    document(user, &body)
}

fn put_details(body: &mut String, details: &Part) {
    body.push_str("<section class=card><h2>Book Details</h2>");
    if details.status == StatusCode::OK {
        body.push_str("<dl>");
        for (label, field) in [
            ("Type", "type"),
            ("Pages", "pages"),
            ("Publisher", "publisher"),
            ("Language", "language"),
            ("ISBN-10", "ISBN-10"),
            ("ISBN-13", "ISBN-13"),
        ] {
            let _ = write!(body, "<dt>{label}</dt><dd>{}</dd>", text(&details.body[field]));
        }
        body.push_str("</dl>");
    } else {
        put_sorry(body, "Error fetching product details!", details);
    }
    body.push_str("</section>");
}

fn put_reviews(body: &mut String, reviews: &Part) {
    body.push_str("<section class=card><h2>Book Reviews</h2>");
    if reviews.status == StatusCode::OK {
        for review in reviews.body["reviews"].as_array().into_iter().flatten() {
            let _ = write!(body, "<blockquote><p>{}</p>", text(&review["text"]));
            let _ = write!(body, "<footer>{}", text(&review["reviewer"]));
            put_rating(body, &review["rating"]);
            body.push_str("</footer></blockquote>");
        }
        let _ = write!(
            body,
            "<p class=from>Reviews served by <code>{}</code></p>",
            text(&reviews.body["podname"])
        );
    } else {
        put_sorry(body, "Error fetching product reviews!", reviews);
    }
    body.push_str("</section>");
}

fn put_rating(body: &mut String, rating: &Value) {
    if let Some(stars) = rating["stars"].as_u64() {
        let stars = stars.min(5) as usize;
        let color = if rating["color"] == "red" { "red" } else { "black" };
        let _ = write!(
            body,
            " <span class=\"stars {color}\" aria-label=\"{stars} of 5\">{}{}</span>",
            "★".repeat(stars),
            "☆".repeat(5 - stars)
        );
    } else if !rating["error"].is_null() {
        let _ = write!(body, " <i>{}</i>", text(&rating["error"]));
    }
}

fn put_sorry(body: &mut String, what: &str, part: &Part) {
    let _ = write!(body, "<h4 class=sorry>{what}</h4><p>{}</p>", text(&part.body["error"]));
}

fn document(user: Option<&str>, body: &str) -> String {
    let session = match user {
        Some(user) => format!("<span>{}</span> <a href=\"/logout\">Sign out</a>", escape(user)),
        None => {
            "<form method=post action=\"/login\"><input name=username placeholder=\"User name\" required>\
                 <input name=passwd type=password placeholder=Password><button>Sign in</button></form>"
                .to_owned()
        }
    };
    format!(
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>Simple Bookstore App</title>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <link rel=stylesheet href=\"/static/style.css\"></head>\
         <body><header><a class=brand href=\"/\">Bookinfo Sample</a>{session}</header><main>{body}</main></body></html>"
    )
}

/// A value as text, safe inside markup.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text),
        Value::Null => String::new(),
        other => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(status: u16, body: Value) -> Part {
        Part { status: StatusCode::from_u16(status).unwrap(), body }
    }

    #[test]
    fn a_failing_part_is_named_and_the_other_still_shown() {
        let details = part(200, json!({"type": "paperback"}));
        let reviews = part(503, json!({"error": "Sorry <b>"}));
        let page = product(Some("jason"), &details, &reviews);
        assert!(page.contains("paperback") && page.contains("Error fetching product reviews!"));
        assert!(page.contains("Sorry &lt;b&gt;") && page.contains("jason"));
    }

    #[test]
    fn stars_have_their_colour() {
        let reviews = json!({"reviews": [{"reviewer": "Reviewer1", "text": "x", "rating": {"stars": 4, "color": "red"}}]});
        let page = product(None, &part(200, json!({})), &part(200, reviews));
        assert!(page.contains("stars red") && page.contains("★★★★☆"));
    }
}
