import { defineConfig } from "vite";

// The built page is committed and embedded: the same sources must give the same bytes.
export default defineConfig({
  base: "/",
  build: { target: "es2024", sourcemap: false, chunkSizeWarningLimit: 800 },
  server: { proxy: { "/api": "http://127.0.0.1:20001" } },
});
