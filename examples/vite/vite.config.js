import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// Set by the sandbox; the page shows it.
process.env.SANDBOX_PREFIX ??= 'local'

// Where to listen comes from the environment, too. Nothing here knows the
// public host name: Vite takes it from __VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS,
// which the sandbox sets as well.
export default defineConfig({
  plugins: [react()],
  envPrefix: ['VITE_', 'SANDBOX_PREFIX'],
  server: {
    host: process.env.HOST || 'localhost',
    port: Number(process.env.PORT || 5174),
    strictPort: true, // on the next free port nobody would find us
  },
})
