// Run first in every Node process of a container: see inject.go. Where a
// server asks to listen on the container's loopback address, with the port
// that the sandbox serves, it listens on all addresses. Other ports are left
// alone: what talks to itself stays private.
import net from 'node:net'
const port = process.env.SANDBOX_PORT
const loopback = /^(localhost|127(\.\d+){3}|::1)$/i
const { listen } = net.Server.prototype
let first
// Of an app that listens on both loopback addresses the second server keeps the
// IPv6 one: two cannot have the wildcard, and requests from outside come by IPv4.
const widen = (server, host) => {
  const family = host.includes(':') ? 6 : 4
  if (first && first !== family && host !== 'localhost') return '::1'
  first = family
  server.once('close', () => { first = 0 })
  return '0.0.0.0'
}
const asked = (p, host) => port && String(p) === port && loopback.test(host)
net.Server.prototype.listen = function (...args) {
  const [options, host] = args
  if (options && typeof options === 'object') {
    if (asked(options.port, options.host)) args[0] = { ...options, host: widen(this, options.host) }
  } else if (asked(options, host)) args[1] = widen(this, host)
  return listen.apply(this, args)
}
