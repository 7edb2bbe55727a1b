// The frame: sign in, choose a view.

import { render } from "preact";
import { useState } from "preact/hooks";
import "./style.css";
import { hasToken, setToken, takeToken } from "./api";
import { GraphView } from "./graph";
import { Sail } from "./icons";
import { ResourcesView } from "./resources";
import { ServicesView, ServiceView, WorkloadsView, WorkloadView } from "./services";
import { changes, proxies, refresh, settled, signedIn, signOut, span, trouble, view, window_, WINDOWS } from "./state";

/** Also while the page is open: `mizzen dashboard` may lead here again, with another token. */
function arrive(): void {
  if (takeToken()) trouble.value = null;
  signedIn.value = hasToken();
  view.value = location.hash || "#/graph";
  void refresh();
}

arrive();
addEventListener("hashchange", arrive);
setInterval(refresh, 2000);

const VIEWS = [["graph", "Graph"], ["services", "Services"], ["workloads", "Workloads"], ["resources", "Resources"]] as const;

function App() {
  if (!signedIn.value) return <SignIn />;
  const [, section = "graph", ...rest] = view.value.split("/");
  const of = rest.join("/");
  return (
    <>
      <header>
        <a class="brand" href="#/graph"><Sail />Mizzen</a>
        <nav>
          {VIEWS.map(([key, label]) => <a key={key} href={`#/${key}`} class={section === key ? "current" : ""}>{label}{key === "resources" && changes.value.some((c) => !c.undone) ? <sup title="changed here">{changes.value.filter((c) => !c.undone).length}</sup> : ""}</a>)}
        </nav>
        <Proxies />
        <div class="windows" role="group" aria-label="Over how long">
          {WINDOWS.map(([seconds, label]) => <button key={label} data-window={seconds ?? "all"} class={window_.value === seconds ? "current" : ""} onClick={() => { window_.value = seconds; void refresh(); }}>{label}</button>)}
        </div>
        <button class="plain" onClick={() => signOut()}>Sign out</button>
      </header>
      {trouble.value && <p class="trouble" role="alert">{trouble.value} {span.value ? "What is shown is old." : ""}</p>}
      <main class={trouble.value ? "old" : ""}>
        {section === "services" && of ? <ServiceView key={of} host={of} />
          : section === "services" ? <ServicesView />
          : section === "workloads" && of ? <WorkloadView key={of} workload={of} />
          : section === "workloads" ? <WorkloadsView />
          : section === "resources" ? <ResourcesView />
          : <GraphView />}
      </main>
    </>
  );
}

/** Whether all proxies have what was applied. */
function Proxies() {
  const now = proxies.value;
  if (!now) return null;
  const refused = now.proxies.filter((p) => p.types.some((t) => t.state === "NACK")).length;
  const [tone, text] = refused > 0 ? ["bad", `${refused} of ${now.proxies.length} proxies refuse`] : settled(now) ? ["good", `${now.proxies.length} proxies in sync`] : ["warn", "proxies are being told…"];
  return <a class={`proxies ${tone}`} href="#/workloads" data-testid="proxies"><i /> {text}</a>;
}

function SignIn() {
  const [token, set] = useState("");
  const enter = (event: Event) => {
    event.preventDefault();
    setToken(token);
    signedIn.value = true;
    trouble.value = null;
    void refresh();
  };
  return (
    <form class="card sign-in" onSubmit={enter} data-testid="sign-in">
      <h1><Sail /> Mizzen</h1>
      <p>The console acts with your own rights. <code>mizzen dashboard</code> opens it signed in; or give it a token of the API server, such as the one in your kubeconfig.</p>
      <input type="password" autocomplete="off" placeholder="Token" value={token} onInput={(e) => set(e.currentTarget.value)} required />
      <button>Enter</button>
      {trouble.value && <p class="bad" role="alert">{trouble.value}</p>}
    </form>
  );
}

render(<App />, document.getElementById("app")!);
