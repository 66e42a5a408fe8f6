// Four scans of a case in, its label map out. Not for clinical use.
//
//	go run . ../../tfs.protoset HOST:PORT MODEL flair.nii.gz t1.nii.gz t1ce.nii.gz t2.nii.gz seg.nii
package main

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// scan reads an int16 NIfTI file: its header, its sizes, where its axes go, its voxels in C order (k fastest).
func scan(path string) (header []byte, size [3]int, axes string, voxels []byte) {
	file, err := os.Open(path)
	check(err)
	unpacked, err := gzip.NewReader(file)
	check(err)
	content, err := io.ReadAll(unpacked)
	check(err)
	number := func(at int) int { return int(int16(binary.LittleEndian.Uint16(content[at:]))) }
	real := func(at int) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(content[at:]))) }
	slope, intercept := real(112), real(116)
	isAsItIs := slope == 0 || math.IsNaN(slope) || slope == 1 && intercept == 0
	if number(70) != 4 || !isAsItIs {
		log.Fatalf("%s: not int16 as it is: send it as float32 by serving_default", path)
	}
	if number(254) <= 0 {
		log.Fatalf("%s: its sform does not say where the axes go", path)
	}
	for axis := 0; axis < 3; axis++ { // by where it goes most: right or left, to the front or back, up or down
		most, letter := 0.0, ""
		for row, letters := range []string{"LR", "PA", "IS"} {
			if goes := real(280 + 16*row + 4*axis); math.Abs(goes) > math.Abs(most) {
				most, letter = goes, letters[:1]
				if goes > 0 {
					letter = letters[1:]
				}
			}
		}
		axes += letter
	}
	size = [3]int{number(42), number(44), number(46)}
	begin, n := int(real(108)), size
	voxels = make([]byte, 2*n[0]*n[1]*n[2])
	for k := 0; k < n[2]; k++ {
		for j := 0; j < n[1]; j++ {
			for i := 0; i < n[0]; i++ {
				from := begin + 2*(i+n[0]*(j+n[1]*k)) // a file has i fastest
				copy(voxels[2*(k+n[2]*(j+n[1]*i)):], content[from:from+2])
			}
		}
	}
	return content[:begin], size, axes, voxels
}

func field(m protoreflect.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

func main() {
	server, model, output := os.Args[2], os.Args[3], os.Args[8]
	content, err := os.ReadFile(os.Args[1])
	check(err)
	var set descriptorpb.FileDescriptorSet
	check(proto.Unmarshal(content, &set))
	files, err := protodesc.NewFiles(&set)
	check(err)
	message := func(name protoreflect.FullName) *dynamicpb.Message {
		found, err := files.FindDescriptorByName(name)
		check(err)
		return dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
	}

	request, answer := message("tensorflow.serving.PredictRequest"), message("tensorflow.serving.PredictResponse")
	spec := fmt.Sprintf(`{"modelSpec": {"name": %q, "signatureName": "any_axes_int16"}, "outputFilter": ["segmentation"]}`, model)
	check(protojson.Unmarshal([]byte(spec), request))
	inputs := request.Mutable(field(request, "inputs")).Map()
	var header []byte
	var n [3]int
	var axes string
	for number, name := range []string{"flair", "t1", "t1ce", "t2"} {
		var voxels []byte
		before := axes
		header, n, axes, voxels = scan(os.Args[4+number])
		if number > 0 && axes != before {
			log.Fatalf("%s: axes %s, those before it %s: the four are not on one grid", os.Args[4+number], axes, before)
		}
		tensor := inputs.Mutable(protoreflect.ValueOfString(name).MapKey()).Message()
		shape := fmt.Sprintf(`{"dtype": "DT_INT16", "tensorShape": {"dim": [{"size": %d}, {"size": %d}, {"size": %d}]}}`, n[0], n[1], n[2])
		check(protojson.Unmarshal([]byte(shape), tensor.Interface()))
		tensor.Set(field(tensor, "tensor_content"), protoreflect.ValueOfBytes(voxels))
	}
	told := inputs.Mutable(protoreflect.ValueOfString("axes").MapKey()).Message().Interface()
	text := base64.StdEncoding.EncodeToString([]byte(axes))
	check(protojson.Unmarshal([]byte(fmt.Sprintf(`{"dtype": "DT_STRING", "tensorShape": {}, "stringVal": [%q]}`, text)), told))

	channel, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	check(err)
	check(channel.Invoke(context.Background(), "/tensorflow.serving.PredictionService/Predict", request, answer))

	key := protoreflect.ValueOfString("segmentation").MapKey()
	tensor := answer.Get(field(answer, "outputs")).Map().Get(key).Message()
	labels := tensor.Get(field(tensor, "tensor_content")).Bytes()
	for values, at := tensor.Get(field(tensor, "int_val")).List(), 0; at < values.Len(); at++ {
		labels = append(labels, byte(values.Get(at).Int())) // a server without --enable_serialization_as_tensor_content
	}
	binary.LittleEndian.PutUint16(header[70:], 2) // the file's data type, uint8
	binary.LittleEndian.PutUint16(header[72:], 8)
	written := append([]byte{}, header...)
	for k := 0; k < n[2]; k++ {
		for j := 0; j < n[1]; j++ {
			for i := 0; i < n[0]; i++ {
				written = append(written, labels[k+n[2]*(j+n[1]*i)])
			}
		}
	}
	check(os.WriteFile(output, written, 0o644))
}
