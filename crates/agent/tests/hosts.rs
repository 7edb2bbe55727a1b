//! Hosts made of namespaces, with real processes: as the user who runs the tests and, if that is root, as an ordinary
//! user beside.
//!
//! This program is everything by turns: the helper processes, a stand-in for the proxy, the application, and the test.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use agent::{
    capture::{self, MARK, Program, Settings, nft},
    egress::{self, Egress},
    host::{
        self, AppOptions, Event, ExitStatus, Hub, Launcher, Privilege, ProxyOptions, Streams, Target,
        Workload, WorkloadOptions, probe,
    },
    netlink::{self, links::Hardware},
};
use libtest_mimic::{Arguments, Trial};
use socket2::{Domain, SockAddr, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let words: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hub", ..] => return host::entry(&arguments[1..]),
        ["stand-in", broker] => stand_in(broker.parse().unwrap()),
        ["application", report] => application(Path::new(report)),
        ["starter", pid_file] => starter(pid_file),
        ["here-rules"] => rules_agree(),
        ["here-links"] => links_keep_their_addresses(),
        ["as-user", ..] => return all_tests("an ordinary user", arguments_of(&words[1..])),
        _ => return everybody(&words),
    }
    ExitCode::SUCCESS
}

/// As the usual test programs take them; one after the other, since the processes that they start need a main thread.
fn arguments_of(words: &[&str]) -> Arguments {
    let arguments = Arguments::from_iter(["hosts"].iter().chain(words));
    Arguments { test_threads: Some(1), ..arguments }
}

/// Both at once: two users' hubs stand side by side.
fn everybody(words: &[&str]) -> ExitCode {
    let arguments = arguments_of(words);
    let plays = !arguments.list && tests("").iter().any(|test| !arguments.is_filtered_out(test));
    let ordinary = (plays && nix::unistd::Uid::effective().is_root()).then(|| {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let copy = folder.path().join("hosts");
        fs::copy(env::current_exe().unwrap(), &copy).unwrap();
        let mut command = Command::new(copy);
        command.arg("as-user").args(words).uid(NOBODY).gid(NOBODY).current_dir("/");
        (folder, command.spawn().unwrap())
    });
    let own = all_tests("the caller", arguments);
    let well = ordinary.is_none_or(|(_folder, mut child)| child.wait().unwrap().success());
    if well { own } else { ExitCode::FAILURE }
}

fn all_tests(who: &str, arguments: Arguments) -> ExitCode {
    libtest_mimic::run(&arguments, tests(who)).exit_code()
}

fn tests(who: &str) -> Vec<Trial> {
    let tests: [(&str, fn()); 8] = [
        ("hardware_addresses_stay_whoever_comes_and_goes", hardware_addresses),
        ("the_rules_in_netlink_are_the_rules_in_text", rules_in_a_namespace),
        ("the_machine_allows_everything_that_is_needed", machine_allows),
        ("a_workload_is_captured_cannot_undo_it_and_is_reached", workload_is_captured),
        ("the_application_s_exit_code_and_signals_are_its_own", exit_is_its_own),
        ("a_command_that_does_not_exist_is_reported_as_by_a_shell", missing_command),
        ("workloads_get_addresses_and_nothing_is_left_of_the_hub", nothing_is_left),
        ("a_killed_starter_leaves_nothing", killed_starter_leaves_nothing),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_kind(who)
    };
    tests.into_iter().map(trial).collect()
}

fn launcher(test: &str) -> Launcher {
    let hub = format!("{}-{test}-{}", nix::unistd::Uid::effective(), std::process::id());
    Launcher { program: env::current_exe().unwrap(), hub, ..Launcher::default() }
}

fn command(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn myself(words: &[&str]) -> Vec<OsString> {
    [env::current_exe().unwrap().into_os_string()].into_iter().chain(command(words)).collect()
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

fn machine_allows() {
    let findings = probe::probe(&launcher("probe")).unwrap();
    assert!(findings.len() >= 8, "{findings:#?}");
    for finding in findings {
        assert!(finding.works(), "{finding:#?}");
    }
}

fn workload_is_captured() {
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    let report = folder.path().join("report");
    let mut options = WorkloadOptions::new(myself(&["application", report.to_str().unwrap()]));
    options.search = vec!["default.svc.cluster.local".into()];
    let workload = Workload::prepare(&launcher("captured"), options).unwrap();
    let events = workload.events();
    start_stand_in(&workload);
    await_ports(&workload, &events, &[15001, 15006, 15053]);
    workload.start_app(AppOptions::default()).unwrap();
    await_ports(&workload, &events, &[8080]);

    let said: Vec<String> = await_file(&report).lines().map(str::to_owned).collect();
    let uid = nix::unistd::Uid::effective();
    let expected = [
        format!("user {uid}"),
        "capabilities 0000000000000000".into(),
        "to 10.96.0.9:9080: captured for 10.96.0.9:9080".into(),
        "to [fd99::9]:9080: captured for [fd99::9]:9080".into(),
        "to 127.0.0.1:8080: hello 127.0.0.1".into(),
        "name look-up: answered".into(),
        "search default.svc.cluster.local".into(),
        "other UDP: refused".into(),
        "flush the rules: refused".into(),
        "processes: few".into(),
    ];
    assert_eq!(said, expected, "what the application saw");

    let hub = workload.hub();
    for address in [Some(workload.address()), workload.address_6()].into_iter().flatten() {
        let source = if address.is_ipv4() { "127.0.0.6" } else { "::6" };
        assert_eq!(line_from(hub, SocketAddr::new(address, 8080)), format!("hello {source}"), "{address}");
    }
    workload.signal(Target::App, libc::SIGTERM).unwrap();
    assert_eq!(next(&events), Event::Ended(Target::App, ExitStatus::Signal(libc::SIGTERM)));
}

fn hardware_addresses() {
    if testkit::peers::need("ip").is_none() || testkit::peers::need("unshare").is_none() {
        return;
    }
    let own = env::current_exe().unwrap();
    let status =
        Command::new("unshare").args(["--map-root-user", "--net"]).arg(own).arg("here-links").status();
    assert!(status.unwrap().success(), "hardware addresses change");
}

/// A neighbour that was asked for its hardware address is not asked again for a while.
fn links_keep_their_addresses() {
    let shown = |link: &str| {
        let output = Command::new("ip").args(["-o", "link", "show", link]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
    };
    let mut route = netlink::Socket::route().unwrap();
    let here = fs::File::open("/proc/self/ns/net").unwrap();
    let bridge = route.add_bridge("bridge", Hardware::of(host::GATEWAY)).unwrap();
    assert_eq!(shown("bridge"), "02:00:0a:2c:00:01");
    for round in 0..3 {
        let lower = Hardware::of(Ipv4Addr::UNSPECIFIED);
        let port = route.add_veth("port", "workload", lower, here.as_fd()).unwrap();
        route.enslave(port, bridge).unwrap();
        let shown = [shown("bridge"), shown("workload")];
        assert_eq!(shown, ["02:00:0a:2c:00:01", "02:00:00:00:00:00"], "round {round}");
        route.remove(port).unwrap();
    }
    assert_eq!(shown("bridge"), "02:00:0a:2c:00:01");
}

/// What the kernel holds must not depend on the way by which it came.
fn rules_in_a_namespace() {
    if testkit::peers::need("nft").is_none() || testkit::peers::need("unshare").is_none() {
        return;
    }
    let own = env::current_exe().unwrap();
    let status =
        Command::new("unshare").args(["--map-root-user", "--net"]).arg(own).arg("here-rules").status();
    assert!(status.unwrap().success(), "the renderings of the rules differ");
}

fn rules_agree() {
    let settings = Settings {
        exclude_inbound: vec![22],
        exclude_outbound: vec![3306, 25],
        exclude_networks: vec!["192.0.2.0/24".parse().unwrap(), "fd01::/17".parse().unwrap()],
        udp_only_to: Some(host::networks()),
        ..Settings::default()
    };
    let program = Program::sidecar(&settings);
    let list = || {
        let output = nft_program().args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    nft::install(&program).unwrap();
    let by_netlink = list();
    nft::remove(&program).unwrap();
    assert_eq!(list(), "");
    let mut child = nft_program().args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(capture::text::nft(&program).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let by_text = list();
    let rules: usize = program.chains.iter().map(|chain| chain.rules.len()).sum();
    assert!(by_text.lines().count() > rules, "{by_text}");
    assert_eq!(by_netlink, by_text);
    for (program_name, family) in
        [("iptables-restore", capture::Family::V4), ("ip6tables-restore", capture::Family::V6)]
    {
        let Some(restore) = testkit::peers::find(program_name) else { continue };
        let mut child = Command::new(restore).arg("--test").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(capture::text::iptables(&program, family).as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{program_name}");
    }
}

fn nft_program() -> Command {
    Command::new(testkit::peers::find("nft").unwrap())
}

fn start_stand_in(workload: &Workload) {
    let program = fs::File::open(env::current_exe().unwrap()).unwrap();
    let broker = egress::serve().unwrap();
    let arguments = vec!["stand-in".into(), "{0}".into()];
    workload.start_proxy(&ProxyOptions { program, arguments, fds: vec![broker], log: None }).unwrap();
}

fn await_ports(workload: &Workload, events: &mpsc::Receiver<Event>, ports: &[u16]) {
    workload.await_ports(ports.to_vec()).unwrap();
    assert!(matches!(next(events), Event::Listening { .. }), "listening on {ports:?}");
}

fn next(events: &mpsc::Receiver<Event>) -> Event {
    events.recv_timeout(PATIENCE).expect("an event of the workload")
}

fn line_from(hub: &Hub, to: SocketAddr) -> String {
    let socket = hub.stream_socket(to.is_ipv6()).unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.connect_timeout(&SockAddr::from(to), PATIENCE).unwrap();
    first_line(socket.into()).unwrap()
}

fn first_line(stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn await_file(path: &Path) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match fs::read_to_string(path) {
            Ok(text) => return text,
            Err(_) => assert!(std::time::Instant::now() < deadline, "{} does not appear", path.display()),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn exit_is_its_own() {
    let launcher = launcher("exit");
    for (script, expected) in [
        ("exit 7", ExitStatus::Code(7)),
        ("kill -KILL $$", ExitStatus::Signal(libc::SIGKILL)),
        // An orphan does not confuse the counting.
        ("(sleep 0.05 &) ; exit 0", ExitStatus::Code(0)),
    ] {
        let workload =
            Workload::prepare(&launcher, WorkloadOptions::new(command(&["sh", "-c", script]))).unwrap();
        let events = workload.events();
        workload.start_app(AppOptions::default()).unwrap();
        assert_eq!(next(&events), Event::Ended(Target::App, expected), "{script}");
    }
}

fn missing_command() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut options = WorkloadOptions::new(command(&["mizzen-no-such-command"]));
    options.streams = Streams::To(log.reopen().unwrap());
    let workload = Workload::prepare(&launcher("missing"), options).unwrap();
    let events = workload.events();
    workload.start_app(AppOptions::default()).unwrap();
    assert_eq!(next(&events), Event::Ended(Target::App, ExitStatus::Code(127)));
    assert!(fs::read_to_string(log.path()).unwrap().contains("cannot start "));
}

fn nothing_is_left() {
    let launcher = launcher("left");
    let prepare = || Workload::prepare(&launcher, WorkloadOptions::new(command(&["true"]))).unwrap();
    let (one, two) = (prepare(), prepare());
    assert_ne!(one.address(), two.address());
    let root = nix::unistd::Uid::effective().is_root();
    assert!(root || one.privilege() == Privilege::User);
    // A listener of the hub is served by this process, which stands outside.
    let gateway = SocketAddr::new(host::GATEWAY.into(), 15012);
    let listener = one.hub().listen(gateway).unwrap();
    assert_eq!(listener.local_addr().unwrap(), gateway);
    assert!(hub_stands(&launcher));
    drop((one, two));
    await_no_hub(&launcher);
}

fn hub_stands(launcher: &Launcher) -> bool {
    fs::read_to_string("/proc/net/unix").unwrap().contains(&format!("@mizzen/hub/{}", launcher.hub))
}

fn await_no_hub(launcher: &Launcher) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while hub_stands(launcher) {
        assert!(std::time::Instant::now() < deadline, "the hub stays");
        thread::sleep(Duration::from_millis(10));
    }
}

fn killed_starter_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let mut child: Child =
        Command::new(env::current_exe().unwrap()).args(["starter", file.to_str().unwrap()]).spawn().unwrap();
    let launcher = Launcher {
        hub: format!("{}-starter-{}", nix::unistd::Uid::effective(), child.id()),
        ..Launcher::default()
    };
    await_file(&file);
    assert!(hub_stands(&launcher));
    child.kill().unwrap();
    child.wait().unwrap();
    await_no_hub(&launcher);
    let deadline = std::time::Instant::now() + PATIENCE;
    while processes_with(file.to_str().unwrap()) > 0 {
        assert!(std::time::Instant::now() < deadline, "the application lives on");
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many processes have the words in their command line.
fn processes_with(words: &str) -> usize {
    let lines =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(words)).count()
}

fn starter(file: &str) {
    let script = format!("(setsid sh -c 'sleep 1000; : {file}' &) ; echo up > {file} ; sleep 1000");
    let workload =
        Workload::prepare(&launcher("starter"), WorkloadOptions::new(command(&["sh", "-c", &script])))
            .unwrap();
    let events = workload.events();
    workload.start_app(AppOptions::default()).unwrap();
    let _ = events.recv();
}

/// What the proxy does, as far as capture is concerned.
fn stand_in(broker: i32) {
    // The descriptor is really there and the broker answers.
    let broker = fs::File::open(format!("/proc/self/fd/{broker}")).map(drop).err().map(|e| e.kind());
    assert_ne!(broker, Some(io::ErrorKind::NotFound));
    assert!(Egress::direct().is_inside([10, 44, 0, 1].into()));
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), "::".parse().unwrap()];
    for address in any {
        let outbound = listener(address, capture::OUTBOUND_PORT);
        serve(outbound, |mut stream| {
            let wanted = probe::original_destination(&stream).unwrap().unwrap();
            writeln!(stream, "captured for {wanted}").unwrap();
        });
        serve(listener(address, capture::INBOUND_PORT), |mut stream| {
            let wanted = probe::original_destination(&stream).unwrap().unwrap();
            let line = first_line(to_application(wanted)).unwrap();
            writeln!(stream, "{line}").unwrap();
        });
    }
    let names = UdpSocket::bind(("127.0.0.1", capture::DNS_PORT)).unwrap();
    let _tcp = TcpListener::bind(("127.0.0.1", capture::DNS_PORT)).unwrap();
    let mut buffer = [0; 512];
    loop {
        let (_, from) = names.recv_from(&mut buffer).unwrap();
        names.send_to(b"answered", from).unwrap();
    }
}

fn listener(address: IpAddr, port: u16) -> TcpListener {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&SockAddr::from(SocketAddr::new(address, port))).unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

fn serve(listener: TcpListener, answer: impl Fn(TcpStream) + Send + 'static) {
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
}

fn to_application(wanted: SocketAddr) -> TcpStream {
    let (domain, source): (_, IpAddr) = match wanted {
        SocketAddr::V4(_) => (Domain::IPV4, capture::INBOUND_SOURCE.into()),
        SocketAddr::V6(_) => (Domain::IPV6, capture::INBOUND_SOURCE_6.into()),
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_mark(MARK).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0))).unwrap();
    socket.connect(&SockAddr::from(wanted)).unwrap();
    socket.into()
}

/// An application that looks around and then serves.
fn application(report: &Path) {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), "::".parse().unwrap()];
    for address in any {
        serve(listener(address, 8080), |mut stream| {
            let peer = stream.peer_addr().unwrap().ip();
            writeln!(stream, "hello {peer}").unwrap();
        });
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities =
        status.lines().filter(|l| l.starts_with("Cap")).max().and_then(|l| l.split_whitespace().nth(1));
    let mut lines = vec![format!("user {}", nix::unistd::Uid::effective())];
    // The greatest of all sets: permitted, bounding, ambient and so on.
    let all =
        status.lines().filter_map(|l| l.strip_prefix("Cap")).filter_map(|l| l.split_whitespace().nth(1));
    lines.push(format!("capabilities {}", all.max().or(capabilities).unwrap()));
    for to in ["10.96.0.9:9080", "[fd99::9]:9080", "127.0.0.1:8080"] {
        let said = TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE).and_then(first_line);
        lines.push(format!("to {to}: {}", said.unwrap_or_else(|e| e.to_string())));
    }
    lines.push(format!("name look-up: {}", ask_nameserver()));
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap();
    lines.extend(resolv.lines().filter(|l| l.starts_with("search")).map(str::to_owned));
    lines.push(format!("other UDP: {}", other_udp()));
    let flushed = nft::remove(&Program::sidecar(&Settings::default()));
    lines.push(format!("flush the rules: {}", if flushed.is_err() { "refused" } else { "done" }));
    let processes = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok());
    lines.push(format!("processes: {}", if processes.count() < 6 { "few" } else { "many" }));
    let draft: PathBuf = report.with_extension("draft");
    fs::write(&draft, lines.join("\n")).unwrap();
    fs::rename(draft, report).unwrap();
    thread::sleep(Duration::from_secs(1000));
}

fn ask_nameserver() -> String {
    let ask = || -> io::Result<String> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"who is reviews?", "127.0.0.1:53")?;
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(from.port(), 53, "the answer comes from where the question went");
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().unwrap_or_else(|e| e.to_string())
}

fn other_udp() -> &'static str {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:123").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // The refusal comes back at once, on the sending or on the waiting.
    match socket.send(b"x").and_then(|_| socket.recv(&mut [0; 8])) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => "refused",
        _ => "lost",
    }
}
