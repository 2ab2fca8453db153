/* A busy loop, which keeps one CPU from everybody else. */
int main(void) {
    for (volatile unsigned long turns = 0;; turns++)
        ;
}
