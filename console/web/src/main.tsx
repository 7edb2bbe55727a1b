// The frame: sign in, choose a view.

import { render } from "preact";
import { useState } from "preact/hooks";
import "./style.css";
import { setToken, takeToken } from "./api";
import { GraphView } from "./graph";
import { ResourcesView } from "./resources";
import { ServicesView, ServiceView } from "./services";
import { refresh, signedIn, signOut, trouble, view } from "./state";

takeToken();
signedIn.value = sessionStorage.getItem("mizzen-token") !== null;
view.value = location.hash || "#/graph";
addEventListener("hashchange", () => (view.value = location.hash));
setInterval(refresh, 2000);
void refresh();

const VIEWS = [["graph", "Graph"], ["services", "Services"], ["resources", "Resources"]] as const;

function App() {
  if (!signedIn.value) return <SignIn />;
  const [, section = "graph", rest] = view.value.split("/");
  return (
    <>
      <header>
        <a class="brand" href="#/graph">Mizzen</a>
        <nav>{VIEWS.map(([key, label]) => <a key={key} href={`#/${key}`} class={section === key ? "current" : ""}>{label}</a>)}</nav>
        {trouble.value && <span class="bad">{trouble.value}</span>}
        <button class="plain" onClick={() => signOut()}>Sign out</button>
      </header>
      <main>
        {section === "services" && rest ? <ServiceView key={rest} host={rest} /> : section === "services" ? <ServicesView /> : section === "resources" ? <ResourcesView /> : <GraphView />}
      </main>
    </>
  );
}

function SignIn() {
  const [token, set] = useState("");
  const enter = (event: Event) => {
    event.preventDefault();
    setToken(token);
    signedIn.value = true;
    void refresh();
  };
  return (
    <form class="card sign-in" onSubmit={enter}>
      <h1>Mizzen</h1>
      <p>The console acts with your own rights. Give it a token of the API server, such as the one in your kubeconfig.</p>
      <input type="password" autocomplete="off" placeholder="Token" value={token} onInput={(e) => set(e.currentTarget.value)} required />
      <button>Enter</button>
      {trouble.value && <p class="bad">{trouble.value}</p>}
    </form>
  );
}

render(<App />, document.getElementById("app")!);
