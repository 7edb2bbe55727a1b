//! nginx' configurations: one worker, no logs, connections of both sides kept.

use crate::keys::Leaf;

/// Everything that is written lies below the folder that nginx is started with.
pub(crate) fn http(port: u16, upstream: u16, tls: Option<&Leaf>) -> String {
    let (ssl, files) = tls.map_or_else(Default::default, |leaf| {
        let (chain, key) = (leaf.chain.display(), leaf.key.display());
        let files = format!(
            "ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_session_tickets off;"
        );
        (" ssl", files)
    });
    format!(
        "\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    upstream answer {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_timeout 1h;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port}{ssl} backlog=4096;
        {files}
        location / {{
            proxy_pass http://answer;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}
