import { useState } from 'react'

const instance = import.meta.env.SANDBOX_PREFIX
const greeting = 'Hello from the sandbox'

export default function App() {
  const [count, setCount] = useState(0)

  return (
    <main>
      <img src="/sandbox.svg" alt="" width="56" height="56" />
      <h1 id="greeting">{greeting}</h1>
      <p>
        This is <code id="instance">{instance}</code>
      </p>
      <button id="counter" onClick={() => setCount(count + 1)}>
        Count is {count}
      </button>
      <p className="hint">
        Count a little, then edit <code>src/App.jsx</code>: the page changes in
        place and keeps the count.
      </p>
    </main>
  )
}
