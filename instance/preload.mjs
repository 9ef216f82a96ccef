// Run first in every Node process of a container: see inject.go. Where a
// server asks to listen on the container's loopback address, with a port that
// the sandbox serves, it listens on all addresses. Other ports are left alone:
// what talks to itself stays private.
import net from 'node:net'
import os from 'node:os'
const ports = (process.env.SANDBOX_PORTS || '').split(',')
const served = p => p > 0 && (ports[0] === 'any' || ports.includes(String(p)))
const loopback = /^(localhost|127(\.\d+){3}|::1)$/i
const { listen } = net.Server.prototype
const first = new Map()
// Of an app that listens on both loopback addresses the second server keeps the
// IPv6 one: two cannot have the wildcard, and requests from outside come by IPv4.
const widen = (server, p, host) => {
  const port = String(p), family = host.includes(':') ? 6 : 4
  if (first.has(port) && first.get(port) !== family && host !== 'localhost') return '::1'
  first.set(port, family)
  server.once('close', () => first.delete(port))
  return '0.0.0.0'
}
// Without IPv6 in the container ::1 fails, as the app may expect.
const exists = host => host !== '::1' || Object.values(os.networkInterfaces()).flat().some(i => i.address === host)
const asked = (p, host) => served(p) && loopback.test(host) && exists(host)
net.Server.prototype.listen = function (...args) {
  const [options, host] = args
  if (options && typeof options === 'object') {
    if (asked(options.port, options.host)) args[0] = { ...options, host: widen(this, options.port, options.host) }
  } else if (asked(options, host)) args[1] = widen(this, options, host)
  return listen.apply(this, args)
}
