module example {
  requires dev.saccade;
  requires org.bytedeco.javacpp; // which dev.saccade needs, and as an automatic module cannot say
}
