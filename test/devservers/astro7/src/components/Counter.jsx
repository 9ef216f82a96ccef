import { useState } from 'react';

export default function Counter() {
  const [count, setCount] = useState(0);

  return (
    <>
      <h1 id="greeting">Edition 0</h1>
      <button id="counter" onClick={() => setCount(count + 1)}>
        Count is {count}
      </button>
    </>
  );
}
