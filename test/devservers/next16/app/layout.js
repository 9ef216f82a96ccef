export const metadata = {
  title: "Create Next App",
  icons: "data:,",
};

export default function RootLayout({ children }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  );
}
